"""Driver `command`: whatever a program does, a verdict with its reason, and no orphan."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from programs import ALLOWED, STEPS, Program
from project import Project, dedented

from pytest_gates.run.program import ProgramProcess

# --- bad programs ------------------------------------------------------------------------------

STATUS = "[{kind: exit_status}, {kind: finite, metrics: [train_loss]}]"


def test_a_program_that_is_missing(allowed: Project) -> None:
    for argv, told in (
        ("[no-such-program]", "there is no program 'no-such-program' beside pytest's Python"),
        ("[./train.sh]", "there is no program './train.sh' in ."),
    ):
        allowed.contract(f"""
            contract_id: C-PROGRAM
            runs:
              own: {{driver: command, argv: {argv}, device: cpu}}
            gates:
              - {{id: GATE-OWN, run: own, checks: [{{kind: exit_status}}], verdict: pending}}
            """)
        done = allowed.run("-rs")
        done.assert_outcomes(skipped=1)
        assert told in done.stdout.str()


def test_a_program_that_no_system_can_start(allowed: Project) -> None:
    script = allowed.root / "train.sh"
    script.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    script.chmod(0o755)
    allowed.contract("""
        contract_id: C-PROGRAM
        runs:
          own: {driver: command, argv: [./train.sh], device: cpu}
        gates:
          - {id: GATE-OWN, run: own, checks: [{kind: exit_status}], verdict: pending}
        """)
    done = allowed.run()
    done.assert_outcomes(failed=1)
    assert "ended CONFIG_REFUSED (the program could not be started" in done.stdout.str()


def test_an_exit_code_is_the_programs_own(program: Program) -> None:
    # 4 is DIVERGENCE where our own trainer ends with it.
    done = program("tell(0, 1.0); sys.exit(4)", checks=STATUS)
    done.assert_outcomes(failed=1)
    assert "ended ERROR (the program ended with exit code 4" in done.stdout.str()
    log = next(iter((program.project.root / ".pytest_gates" / "logs").iterdir()))
    assert log.name in done.stdout.str()
    assert "train_loss" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("pass", "standard output: the program wrote nothing there"),
        ('tell(0, 1.0); print(\'{"step": 1, "train_\')', "standard output:2: not a line of JSON"),
        ("print('hello')", "standard output:1: not a line of JSON"),
    ],
)
def test_nothing_and_half_a_line_decide_nothing(program: Program, source: str, told: str) -> None:
    done = program(source)
    done.assert_outcomes(failed=1)
    assert "INCONCLUSIVE" in done.stdout.str()
    assert told in done.stdout.str()
    # What needs no telemetry is judged all the same.
    program(source, checks="[{kind: exit_status}]").assert_outcomes(passed=1)


def test_a_program_without_any_telemetry_says_so(program: Program) -> None:
    done = program("pass", telemetry="[]")
    done.assert_outcomes(failed=1)
    assert "the program wrote no telemetry; let it use pytest_gates.emit" in done.stdout.str()
    done = program("pass", telemetry='[{path: "{out}/log.csv", format: csv}]')
    assert "{out}/log.csv: No such file" in done.stdout.str()
    done = program("pass", telemetry='[{path: "{out}/*.csv", format: csv}]')
    assert "{out}/*.csv: 0 files fit, expected one" in done.stdout.str()


Passes = Callable[[Callable[[], object]], None]


def test_half_a_line_of_a_program_that_was_ended_is_left_out(
    program: Program, hour_passes: Passes
) -> None:
    staging = program.project.root / ".pytest_gates" / "staging"
    told = staging.glob
    hour_passes(lambda: any('"tr' in one.read_text("utf-8") for one in told("*/stdout.txt")))
    source = """
        tell(0, 1.0)
        sys.stdout.write('{"step": 1, "tr'); sys.stdout.flush()
        time.sleep(600)
    """
    program(source, checks=STATUS, more="timeout_s: 600")
    [evidence] = program.evidence
    assert evidence.status == "TIMEOUT"
    assert evidence.main.steps.columns["train_loss"] == (1.0,)
    assert any("half-written last line" in note for note in evidence.notes)


def test_a_program_that_never_ends(
    program: Program, orphans: Callable[[], list[str]], hour_passes: Passes
) -> None:
    hour_passes((program.project.root / "started").exists)
    source = """
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"],
                         start_new_session=True)
        open("started", "w").close()
        while True: time.sleep(1)
    """
    done = program(source, checks="[{kind: exit_status}]", more="timeout_s: 600")
    done.assert_outcomes(failed=1)
    assert "ended TIMEOUT (ended after 600 s, its time limit" in done.stdout.str()
    assert orphans() == []


@pytest.mark.parametrize("how", ["plain", "another session", "twice"])
def test_a_program_that_forks_and_exits(
    program: Program, orphans: Callable[[], list[str]], how: str
) -> None:
    source = f"""
        tell(0, 1.0)
        if os.fork() == 0:
            if {how!r} != "plain": os.setsid()
            if {how!r} == "twice" and os.fork(): os._exit(0)
            time.sleep(300)
        os._exit(0)
    """
    done = program(source, checks="[{kind: exit_status}]")
    done.assert_outcomes(failed=1)
    assert "ended ERROR (the program ended and left a process running" in done.stdout.str()
    assert orphans() == []


def test_helpers_that_end_a_moment_later_are_no_fault(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProgramProcess, "linger_s", 60.0)  # a moment, however busy the machine is
    source = """
        import subprocess
        tell(0, 1.0)
        subprocess.Popen(["sleep", "0.2"])
    """
    program(source, checks="[{kind: exit_status}]").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("telemetry", "target", "told"),
    [
        ('[{path: "{out}/log.csv", format: csv}]',
         'os.environ["PYTEST_GATES_OUT"] + "/log.csv"', "its telemetry grew beyond 1 MiB"),
        ("[{stdout: true, format: jsonl}]", "1", "its telemetry grew beyond 1 MiB"),
        ("[]", "2", "its output grew beyond 2 MiB"),
    ],
)  # fmt: skip
def test_a_program_that_writes_ten_gigabytes(
    program: Program, telemetry: str, target: str, told: str
) -> None:
    program.project.pytester.makeini(
        ALLOWED + "gates_evidence_limit_mib = 1\ngates_output_limit_mib = 2\n"
    )
    # A sparse file: the size is there at once, the disk is not.
    source = f"""
        target = {target}
        fd = target if isinstance(target, int) else os.open(target, os.O_WRONLY | os.O_CREAT)
        os.ftruncate(fd, 10 * 2**30)
        time.sleep(300)
        open("to its end", "w").close()
    """
    done = program(source, checks="[{kind: exit_status}]", telemetry=telemetry)
    done.assert_outcomes(failed=1)
    assert f"ended KILLED (ended when {told}" in done.stdout.str()
    assert not (program.project.root / "to its end").exists()
    sealed = (program.project.root / ".pytest_gates").glob("evidence/**/*")
    assert sum(path.stat().st_size for path in sealed if path.is_file()) < 2**20


def test_secrets_reach_no_evidence_and_no_report(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "tok-0123456789abcdef")
    source = """
        secret = os.environ["HUB_TOKEN"]
        print(secret, file=sys.stderr)
        print(json.dumps({"kind": "fact", "name": "note", "value": f"it is {secret}"}))
        print(json.dumps({"kind": "step", "step": 0, "train_loss": 1.0}))
        sys.exit(secret)
    """
    for telemetry in ("[{stdout: true, format: jsonl}]", "[]"):
        done = program(source, "--gates-report", "r.html", checks=STATUS, telemetry=telemetry)
        done.assert_outcomes(failed=1)
        html = (program.project.root / "r.html").read_text(encoding="utf-8")
        for text in (done.stdout.str(), html, program.everything_kept()):
            assert "0123456789abcdef" not in text


# --- the process tree --------------------------------------------------------------------------


def test_nothing_outlives_a_session_that_is_killed(
    program: Program, orphans: Callable[[], list[str]]
) -> None:
    source = """
        import subprocess
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"],
                         start_new_session=True)
        open(os.path.join(os.environ["HERE"], "ready"), "w").close()
        time.sleep(300)
    """
    root = program.project.root
    text = dedented(STEPS) + dedented(source)
    (root / "program.py").write_text(text, encoding="utf-8")
    program.project.contract(f"""
        contract_id: C-PROGRAM
        runs:
          own:
            driver: command
            argv: [python, program.py]
            device: cpu
            environment: {{HERE: {root}}}
        gates:
          - {{id: GATE-OWN, run: own, checks: [{{kind: exit_status}}], verdict: pending}}
        """)
    command = [sys.executable, "-m", "pytest", "-p", "pytest_gates.plugin", "--gates", "contracts"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL) as session:
        wait_for((root / "ready").exists)
        session.send_signal(signal.SIGKILL)
    wait_for(lambda: orphans() == [])


def wait_for(reached: Callable[[], Any], seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)

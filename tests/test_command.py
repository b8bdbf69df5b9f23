"""Driver `command`: a team's own program under contract, whatever it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from project import Project, dedented

from pytest_gates.evidence import Evidence
from pytest_gates.evidence_store import read_evidence
from pytest_gates.model.config import CommandRun
from pytest_gates.model.telemetry import METRICS

ALLOWED = "[pytest]\nfilterwarnings = error\ngates_allow_drivers = command\n"
GOOD = "print(*({'step': n, 'train_loss': 5 - n / 10} for n in range(20)), sep='\\n')"
STEPS = """
    import json, os, sys, time
    def tell(step, loss, **more):
        print(json.dumps({"step": step, "train_loss": loss, **more}), flush=True)
"""


@pytest.fixture
def allowed(project: Project) -> Project:
    project.pytester.makeini(ALLOWED)
    return project


class Program:
    """A program in a project, and the gates over it."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def __call__(
        self,
        source: str,
        *args: str,
        checks: str = "[{kind: finite, metrics: [train_loss]}]",
        more: str = "",
        telemetry: str = "[{stdout: true, format: jsonl}]",
        falsifier: str = "",
    ) -> pytest.RunResult:
        text = dedented(STEPS) + dedented(source)
        (self.project.root / "program.py").write_text(text, encoding="utf-8")
        self.project.contract(f"""
            contract_id: C-PROGRAM
            runs:
              own:
                driver: command
                argv: [python, program.py]
                device: cpu
                telemetry: {telemetry}
                {more}
            gates:
              - id: GATE-OWN
                run: own
                checks: {checks}
                verdict: pending
            {falsifier}
            """)
        return self.project.run(*args)

    @property
    def evidence(self) -> list[Evidence]:
        """What was sealed, the newest last."""
        root = self.project.root
        folders = sorted(
            (root / ".pytest_gates" / "evidence").iterdir(), key=lambda one: one.stat().st_mtime_ns
        )
        return [read_evidence(root, one.relative_to(root).as_posix()) for one in folders]

    def everything_kept(self) -> str:
        """All text of evidence, records and contract."""
        root = self.project.root
        paths = [*root.glob("evidence/**/*"), *root.glob(".pytest_gates/evidence/**/*"),
                 *root.glob("contracts/*")]  # fmt: skip
        return "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())


@pytest.fixture
def program(allowed: Project) -> Program:
    return Program(allowed)


@pytest.fixture
def orphans() -> Iterator[Callable[[], list[str]]]:
    """Living processes that carry a mark of this test in their environment."""
    os.environ["MARK_OF_A_TEST"] = mark = f"{os.getpid()}-{time.monotonic_ns()}"

    def left() -> list[str]:
        found = []
        for one in psutil.process_iter():
            try:
                marked = one.environ().get("MARK_OF_A_TEST") == mark
                if marked and one.pid != os.getpid() and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(one.cmdline()))
            except psutil.Error:
                continue
        # The session's own forkservers end with it.
        return [line for line in found if "forkserver" not in line]

    yield left
    del os.environ["MARK_OF_A_TEST"]


# --- who may start programs --------------------------------------------------------------------


def test_a_contract_alone_starts_no_program(project: Project) -> None:
    mark = project.root / "started"
    program = Program(project)
    done = program(f"open({str(mark)!r}, 'w')", "-rs")
    done.assert_outcomes(skipped=1)
    told = "driver command starts a program and is not allowed: `gates_allow_drivers = command`"
    assert told in done.stdout.str()
    assert not mark.exists()
    # Nor does it where BLOCKED is red.
    project.run("--gates-live").assert_outcomes(failed=1)
    assert not mark.exists()


def test_only_drivers_that_need_permission_are_named(project: Project) -> None:
    project.pytester.makeini("[pytest]\ngates_allow_drivers = pretrain\n")
    project.contract("contract_id: C-X\n")
    done = project.run()
    told = done.stdout.str() + done.stderr.str()
    assert "gates_allow_drivers names 'pretrain'" in told


def test_what_was_recorded_is_replayed_where_no_program_may_start(program: Program) -> None:
    program("for n in range(3): tell(n, 5 - n)").assert_outcomes(passed=1)
    program.project.pytester.makeini("[pytest]\nfilterwarnings = error\n")
    done = program.project.run()
    assert done.ret == 0
    assert "1 PASS replayed" in done.stdout.str()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("argv: []", "expected a list of at least one"),
        ("argv: python train.py", "expected a list"),
        ("folder: ../elsewhere", "lies outside the project"),
        ("telemetry: [{path: ../log, format: csv}]", "lies outside the project"),
        ("telemetry: [{format: csv}]", "give either path or `stdout: true`"),
        ("device: auto", "expected"),
        ("environment: {CUDA_VISIBLE_DEVICES: '1'}", "is set by the driver"),
        ("environment: {'A=B': '1'}", "no name of an environment variable"),
        ("shell: true", "unknown key `shell`"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(
    allowed: Project, line: str, wrong: str
) -> None:
    key = line.partition(":")[0]
    rest = {"argv": "argv: [python]", "device": "device: cpu"}
    rest.pop(key, None)
    lines = ["driver: command", *rest.values(), line]
    at = 3 + len(lines)
    block = "".join(f"\n    {one}" for one in lines)
    allowed.contract(f"contract_id: C-X\nruns:\n  own:{block}\n")
    text = allowed.run().stdout.str()
    assert wrong in text
    assert f"claims.yaml:{at}:" in text or f"claims.yaml:{at - 1}:" in text


# --- what it gets ------------------------------------------------------------------------------


def test_words_folder_environment_and_device_are_as_declared(program: Program) -> None:
    (program.project.root / "deep").mkdir()
    (program.project.root / "program.py").write_text("", encoding="utf-8")
    source = """
        seen = {"argv": sys.argv[1:], "folder": os.path.basename(os.getcwd()),
                **{k: os.environ.get(k) for k in ("COLOUR", "CUDA_VISIBLE_DEVICES",
                   "OMP_NUM_THREADS", "PYTEST_CURRENT_TEST", "WHERE")}}
        json.dump(seen, open(sys.argv[-1] + "/seen.json", "w"))
        import shutil; shutil.copy(sys.argv[-1] + "/seen.json", "..")
        tell(0, 1.0)
    """
    text = dedented(STEPS) + dedented(source)
    (program.project.root / "deep" / "program.py").write_text(text, encoding="utf-8")
    program.project.contract("""
        contract_id: C-PROGRAM
        runs:
          own:
            driver: command
            argv: [python, program.py, "$HOME; echo", "two words", "{out}"]
            folder: deep
            device: cpu
            threads: 2
            environment: {COLOUR: blue, WHERE: "{out}/x"}
            telemetry: [{stdout: true, format: jsonl}]
        gates:
          - {id: GATE-OWN, run: own, checks: [{kind: exit_status}], verdict: pending}
        """)
    program.project.run().assert_outcomes(passed=1)
    seen = json.loads((program.project.root / "seen.json").read_text(encoding="utf-8"))
    assert seen["argv"][:2] == ["$HOME; echo", "two words"]
    assert seen["folder"] == "deep"
    assert seen["COLOUR"] == "blue"
    assert seen["WHERE"] == seen["argv"][2] + "/x"
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["OMP_NUM_THREADS"] == "2"
    assert seen["PYTEST_CURRENT_TEST"] is None
    assert not Path(seen["argv"][2]).exists()  # its own folder goes with it


def test_telemetry_from_a_file_of_its_own_and_from_one_of_the_project(program: Program) -> None:
    for path, folder in (("{out}/log.csv", "os.environ['PYTEST_GATES_OUT']"),
                         ("logs/*.csv", "'logs'")):  # fmt: skip
        source = f"""
            folder = {folder}
            os.makedirs(folder, exist_ok=True)
            with open(folder + "/log.csv", "w") as file:
                file.write("step,loss\\n0,5\\n1,4\\n2,3\\n3,2\\n")
        """
        telemetry = f'[{{path: "{path}", format: csv, fields: {{train_loss: loss}}}}]'
        program(source, telemetry=telemetry).assert_outcomes(passed=1)
        assert program.evidence[-1].main.steps.columns["train_loss"] == (5.0, 4.0, 3.0, 2.0)


def test_a_log_of_an_earlier_run_does_not_count_as_this_ones(program: Program) -> None:
    log = program.project.root / "log.jsonl"
    log.write_text('{"step": 0, "train_loss": 1.0}\n', encoding="utf-8")
    telemetry = "[{path: log.jsonl, format: jsonl}]"
    appended = 'open("log.jsonl", "a").write(json.dumps({"step": 1, "train_loss": 1.0}) + "\\n")'
    for source in ("pass", appended):
        done = program(source, telemetry=telemetry)
        done.assert_outcomes(failed=1)
        assert "was there before the run" in done.stdout.str()
    anew = 'open("log.jsonl", "w").write(json.dumps({"step": 0, "train_loss": 2.0}) + "\\n")'
    program(anew, telemetry=telemetry).assert_outcomes(passed=1)


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


def test_half_a_line_of_a_program_that_was_ended_is_left_out(program: Program) -> None:
    source = """
        tell(0, 1.0)
        sys.stdout.write('{"step": 1, "tr'); sys.stdout.flush()
        time.sleep(60)
    """
    program(source, checks=STATUS, more="timeout_s: 1")
    [evidence] = program.evidence
    assert evidence.status == "TIMEOUT"
    assert evidence.main.steps.columns["train_loss"] == (1.0,)
    assert any("half-written last line" in note for note in evidence.notes)


def test_a_program_that_never_ends(program: Program, orphans: Callable[[], list[str]]) -> None:
    source = """
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"],
                         start_new_session=True)
        while True: time.sleep(1)
    """
    done = program(source, checks="[{kind: exit_status}]", more="timeout_s: 1")
    done.assert_outcomes(failed=1)
    assert "ended TIMEOUT (ended after 1 s, its time limit" in done.stdout.str()
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


def test_helpers_that_end_a_moment_later_are_no_fault(program: Program) -> None:
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
        time.sleep(60)
    """
    begun = time.monotonic()
    done = program(source, checks="[{kind: exit_status}]", telemetry=telemetry)
    done.assert_outcomes(failed=1)
    assert f"ended KILLED (ended when {told}" in done.stdout.str()
    assert time.monotonic() - begun < 50  # it was ended, not waited for
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


def wait_for(reached: Callable[[], Any], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)


# --- faults ------------------------------------------------------------------------------------

TWENTY = """
    for n in range(20):
        tell(n, 5 - float(os.environ.get("RATE", "1")) * n / 10)
        time.sleep(float(os.environ.get("PAUSE", "0")))
"""


def falsifier(fault: str, check: str) -> str:
    return (
        "falsification_tests: [{id: FALSIFY-OWN, binds_to: GATE-OWN, "
        f"inject: {fault}, expect: {{verdict: fail, check: {check}}}}}]"
    )


@pytest.mark.parametrize(
    ("fault", "checks", "check"),
    [
        ("{fault: other_environment, variables: {RATE: '0'}}",
         "[{kind: not_constant, metric: train_loss}]", "not_constant"),
        ("{fault: killed_program}", "[{kind: exit_status}]", "exit_status"),
        ("{fault: killed_program, after_s: 0.1}", "[{kind: exit_status}]", "exit_status"),
        ("{fault: slow_program, pause_ms: 400, run_ms: 10}",
         "[{kind: exit_status, within_s: 5.0}]", "exit_status"),
        ("{fault: planted_telemetry, metric: train_loss, value: NaN, from_step: 7}",
         "[{kind: finite, metrics: [train_loss]}]", "finite"),
        ("{fault: planted_telemetry, metric: train_loss, value: 3.5}",
         "[{kind: not_constant, metric: train_loss}]", "not_constant"),
    ],
)  # fmt: skip
def test_a_gate_is_seen_red_without_the_programs_help(
    program: Program, fault: str, checks: str, check: str
) -> None:
    more = "environment: {PAUSE: '0.04'}"
    done = program(TWENTY, checks=checks, more=more, falsifier=falsifier(fault, check))
    done.assert_outcomes(passed=2)
    assert "CAUGHT" in done.stdout.str()


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [("edited_evidence", "tampered"), ("foreign_configuration", "blocked"),
     ("typed_verdict", "unfounded")],
)  # fmt: skip
def test_planted_evidence_of_a_program_is_found(program: Program, fault: str, verdict: str) -> None:
    attack = (
        "falsification_tests: [{id: FALSIFY-OWN, binds_to: GATE-OWN, "
        f"inject: {{fault: {fault}}}, expect: {{verdict: {verdict}}}}}]"
    )
    program(TWENTY, falsifier=attack).assert_outcomes(passed=2)


def test_faults_of_the_built_in_trainer_cannot_apply(program: Program) -> None:
    done = program(TWENTY, falsifier=falsifier("{fault: nan_step, step: 3}", "finite"))
    assert "the fault cannot apply: the fault works inside the built-in trainer" in (
        done.stdout.str()
    )


def test_missing_metrics_of_a_program_are_blocked_with_what_is_there(program: Program) -> None:
    done = program(TWENTY, "-rs", checks="[{kind: finite, metrics: [grad_norm]}]",
                   telemetry="[{stdout: true, format: jsonl, fields: {lr: rate}}]")  # fmt: skip
    done.assert_outcomes(skipped=1)
    assert "tells no grad_norm: standard output holds step, train_loss" in done.stdout.str()


def test_the_metrics_that_a_fault_plants_exist() -> None:
    run = CommandRun(driver="command", argv=("true",), device="cpu")
    from pytest_gates.model.faults.program import PlantedTelemetry

    assert PlantedTelemetry.typical(run).metric in METRICS


def test_mutation_asks_for_permission_too(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_gates.cli import main

    # A declared environment is what no pickle of a mutant survives.
    program(TWENTY, "--collect-only", more="environment: {WORDS: many}")
    monkeypatch.chdir(program.project.root)
    command = ["mutate", "contracts", "--fault", "planted_telemetry", "--fresh"]
    main(command)
    assert "blocked on this machine: planted_telemetry" in capsys.readouterr().out
    assert main([*command, "--allow-driver", "command"]) == 0
    assert "CAUGHT" in capsys.readouterr().out.upper()

"""Driver `command`: logs that rotate, are no files, are others', or hold what nobody expects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from programs import ALLOWED, STEPS, Program
from project import dedented

OWN = '[{path: "{out}/log.jsonl", format: jsonl}]'
LOG = 'open(os.environ["PYTEST_GATES_OUT"] + "/log.jsonl", "w")'
THREE = "declares: {steps: 3}"


@pytest.mark.parametrize(
    "made",
    ['os.mkfifo(out)', "os.mkdir(out)", 'os.symlink("/dev/zero", out)'],
)  # fmt: skip
def test_a_log_that_is_no_file_is_not_waited_for(program: Program, made: str) -> None:
    source = f"""
        out = os.environ["PYTEST_GATES_OUT"] + "/log.jsonl"
        {made}
        time.sleep(0.3)
    """
    done = program(source, telemetry=OWN, more="timeout_s: 20")
    done.assert_outcomes(failed=1)
    assert "INCONCLUSIVE" in done.stdout.str()
    assert program.evidence[-1].status == "COMPLETED"


def test_a_log_may_vanish_while_it_is_looked_at(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, looks = Path.stat, iter(range(10**9))

    def seen_every_other_time(path: Path, **how: Any) -> os.stat_result:
        if path.name == "log.jsonl" and next(looks) % 2:
            raise FileNotFoundError(path)
        return stat(path, **how)

    source = f"""
        with {LOG} as file:
            file.write(json.dumps({{"step": 0, "train_loss": 1.0}}) + chr(10))
        time.sleep(0.5)
    """
    monkeypatch.setattr(Path, "stat", seen_every_other_time)
    program(source, telemetry=OWN).assert_outcomes(passed=1)
    assert next(looks) > 1


@pytest.mark.parametrize(
    ("telemetry", "path"),
    [
        ("[{path: log.jsonl, format: jsonl}]", "'log.jsonl'"),
        ('[{path: "runs/*/log.jsonl", format: jsonl}]', "'runs/new/log.jsonl'"),
        ('[{path: "{out}/*.jsonl", format: jsonl}]', "out + '/log-1.jsonl'"),
        ("[]", "out + '/telemetry-1.jsonl'"),
    ],
)
def test_a_log_may_not_grow_without_end_wherever_it_is(
    program: Program, telemetry: str, path: str
) -> None:
    program.project.pytester.makeini(ALLOWED + "gates_evidence_limit_mib = 1\n")
    old = program.project.root / "runs" / "old" / "log.jsonl"
    old.parent.mkdir(parents=True)
    with old.open("wb") as file:
        file.truncate(2**21)  # what an earlier run left is not what this one writes
    source = f"""
        out = os.environ["PYTEST_GATES_OUT"]
        time.sleep(0.3)
        os.makedirs("runs/new", exist_ok=True)
        os.ftruncate(os.open({path}, os.O_WRONLY | os.O_CREAT), 10 * 2**30)
        time.sleep(60)
    """
    done = program(source, telemetry=telemetry, checks="[{kind: exit_status}]")
    done.assert_outcomes(failed=1)
    assert "ended KILLED (ended when its telemetry grew beyond 1 MiB" in done.stdout.str()
    assert program.evidence[-1].wall_ms is not None
    assert program.evidence[-1].wall_ms > 250  # the old log ended nothing


def test_lines_with_other_names_for_a_step_are_followed(program: Program) -> None:
    fields = "fields: {step: iter, train_loss: loss}"
    source = """
        for number in range(3):
            print(json.dumps({"kind": "step", "iter": number, "loss": 1.0}), flush=True)
        print(json.dumps({"kind": "step", "iter": 3, "loss": 1.0, "step": 10**400, "wall_ms": 1}))
        time.sleep(0.3)
    """
    telemetry = f"[{{stdout: true, format: jsonl, {fields}}}]"
    program(source, telemetry=telemetry).assert_outcomes(passed=1)


def test_half_a_character_of_a_program_that_was_ended_is_left_out(program: Program) -> None:
    for rank in (0, 1):
        source = f"""
            with open(os.environ["PYTEST_GATES_OUT"] + "/telemetry-{rank}.jsonl", "wb") as file:
                file.write(b'{{"kind":"step","step":0,"train_loss":1.0}}' + bytes([10]))
                file.write(b'{{"kind":"fact","name":"x","value":"' + bytes([0xc3]))
            sys.exit(3)
        """
        done = program(source, telemetry="[]", checks="[{kind: exit_status}]")
        done.assert_outcomes(failed=1)
        assert "the program ended with exit code 3" in done.stdout.str()
        evidence = program.evidence[-1]
        assert evidence.telemetry[rank].steps.columns["train_loss"] == (1.0,)
        assert any("half-written last line" in note for note in evidence.notes)


def test_a_last_line_without_its_newline_counts(program: Program) -> None:
    source = """
        with open(os.environ["PYTEST_GATES_OUT"] + "/telemetry-0.jsonl", "w") as file:
            for step, loss in enumerate(["1.0", '"NaN"']):
                file.write(chr(10) * (step > 0))
                file.write('{"kind":"step","step":%d,"train_loss":%s}' % (step, loss))
    """
    done = program(source, telemetry="[]")
    done.assert_outcomes(failed=1)
    assert "train_loss is nan at step 1" in done.stdout.str()


def test_a_number_that_looks_like_a_secret_stays_a_number(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_TOKENS", "131072")
    source = 'tell(0, 1.131072, tokens=131072)'  # fmt: skip
    program(source).assert_outcomes(passed=1)
    steps = program.evidence[-1].main.steps.columns
    assert (steps["train_loss"], steps["tokens"]) == ((1.131072,), (131072.0,))


@pytest.mark.parametrize("step", ["1e300", "-1", "9007199254740993"])
def test_a_step_that_no_run_has_is_told_at_its_place(program: Program, step: str) -> None:
    telemetry = "[{stdout: true, format: jsonl, fields: {train_loss: loss}}]"
    done = program(f"""print('{{"step": {step}, "loss": 1.0}}')""", telemetry=telemetry)
    done.assert_outcomes(failed=1)
    assert "INCONCLUSIVE" in done.stdout.str()
    assert "standard output:1: step" in done.stdout.str()


# --- logs in the project -----------------------------------------------------------------------


def test_a_pattern_never_means_what_an_earlier_run_left(program: Program) -> None:
    old = program.project.root / "runs" / "old" / "log.jsonl"
    old.parent.mkdir(parents=True)
    lines = [f'{{"step": {step}, "train_loss": 1.0}}\n' for step in range(3)]
    old.write_text("".join(lines), encoding="utf-8")
    telemetry = '[{path: "runs/*/log.jsonl", format: jsonl}]'
    appended = 'open("runs/old/log.jsonl", "a").write(json.dumps({"step": 3}) + chr(10))'
    for source in ("pass", appended):
        done = program(source, telemetry=telemetry, more=THREE)
        done.assert_outcomes(failed=1)
        assert "runs/*/log.jsonl: was there before the run" in done.stdout.str()
    source = """
        os.makedirs("runs/new")
        with open("runs/new/log.jsonl", "w") as file:
            for step in range(3):
                file.write(json.dumps({"step": step, "train_loss": 2.0}) + chr(10))
    """
    program(source, telemetry=telemetry, more=THREE).assert_outcomes(passed=1)
    assert program.evidence[-1].main.steps.columns["train_loss"] == (2.0, 2.0, 2.0)


def test_an_empty_log_that_was_there_is_nobodys(program: Program) -> None:
    (program.project.root / "log.jsonl").touch()
    source = 'open("log.jsonl", "a").write(json.dumps({"step": 0, "train_loss": 1.0}) + chr(10))'
    telemetry = "[{path: log.jsonl, format: jsonl}]"
    program(source, telemetry=telemetry).assert_outcomes(passed=1)


RATE = """
    with open("log.jsonl", "w") as file:
        file.write(json.dumps({"step": 0, "train_loss": float(os.environ["RATE"])}) + chr(10))
    open(f"began-{os.environ['RATE']}", "w").close()
    until = time.monotonic() + 3
    other = f"began-{3 - int(os.environ['RATE'])}"
    while not os.path.exists(other) and time.monotonic() < until: time.sleep(0.02)
"""
GATE = """
    contract_id: C-{rate}
    runs:
      own:
        driver: command
        argv: [python, program.py]
        device: cpu
        environment: {{RATE: "{rate}"}}
        telemetry: [{{path: log.jsonl, format: jsonl}}]
    gates:
      - id: GATE-{rate}
        run: own
        checks: [{{kind: bounded, metric: train_loss, above: {above}, below: {below}}}]
        verdict: pending
    """


def test_runs_that_tell_into_one_file_of_the_project_take_turns(program: Program) -> None:
    # Each waits for the other to begin: beside each other, both would be judged by one's numbers.
    root = program.project.root
    text = dedented(STEPS) + dedented(RATE)
    (root / "program.py").write_text(text, encoding="utf-8")
    for rate in (1, 2):
        contract = GATE.format(rate=rate, above=rate - 0.5, below=rate + 0.5)
        program.project.contract(contract, f"of-{rate}.yaml")
    (root / "pytest.ini").unlink(missing_ok=True)
    program.project.pytester.makeini(ALLOWED + "gates_cpu_slots = 4\n")
    done = program.project.process("-p", "xdist", "-n", "2", "--dist", "loadfile")
    done.assert_outcomes(passed=2)

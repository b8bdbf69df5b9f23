"""Driver `command`: who may start a team's own program, and what it gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import STEPS, Program
from project import Project, dedented

GOOD = "print(*({'step': n, 'train_loss': 5 - n / 10} for n in range(20)), sep='\\n')"


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


def test_ranks_that_a_program_starts_itself_are_not_told_apart(program: Program) -> None:
    done = program("pass", checks="[{kind: finite, metrics: [train_loss], ranks: all}]")
    assert "the run is one process; give it `launch: {processes: N}`" in done.stdout.str()


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

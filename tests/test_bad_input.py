"""Whatever a user gets wrong: one clear line with its place, and nothing is written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from loading import RUN, gate
from project import NO_BYTECODE, PLUGIN, RECORDED, Project

from pytest_gates import ledger

QUICK = [40.0 + (index % 7) for index in range(30)]
BUDGET = "{kind: budget, metric: wall_ms, steps: [20, 99], below: 60}"


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file that git would see, and what the cache keeps for good."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and ".pytest_cache" not in path.parts
    }


def assert_refused_when_loaded(project: Project, text: str, line: str) -> None:
    """Collection ends with that line, once, without a traceback, and no file is other or new."""
    project.contract(text)
    before = snapshot(project.root)
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    said = [one for one in result.stdout.lines if one.startswith("contracts/claims.yaml:")]
    assert len(said) == 1, said
    assert said[0].startswith(f"contracts/claims.yaml:{line}"), said
    assert "Traceback" not in result.stdout.str()
    assert snapshot(project.root) == before


def assert_red(project: Project, result: pytest.RunResult, reason: str) -> None:
    """One item is red with that reason and its place, without a traceback; no verdict is there."""
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "contracts/claims.yaml:12:5: GATE-MEDIAN ERROR" in text
    assert reason in text
    assert "Traceback" not in text
    assert "gates: 1 (1 ERROR)" in text
    assert not project.records
    assert "verdict: pending" in (project.contracts / "claims.yaml").read_text(encoding="utf-8")


def test_a_mistake_is_said_once_whatever_follows_from_it(project: Project) -> None:
    number = RUN.replace("steps: 100", "steps: 1e3") + "  other: {from: base, seed: 1}\n"
    assert_refused_when_loaded(project, number + gate("{kind: descent}"), "9:12: `1e3` is a string")
    misspelt = RUN + gate("{kind: descent}").replace("checks:", "chekcs:")
    assert_refused_when_loaded(project, misspelt, "13:5: unknown key `chekcs`; did you mean")
    nan = "{kind: budget, metric: wall_ms, steps: [20, 99], below: {NVIDIA H200: .nan}}"
    assert_refused_when_loaded(project, RUN + gate(nan), "14:65: `below`: NVIDIA H200: NaN is no")


# --- refused when loaded -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "line"),
    [
        pytest.param(
            BUDGET.replace("below", "bellow"),
            "14:58: unknown key `bellow`; did you mean `below`?",
            id="a misspelt key",
        ),
        pytest.param(
            BUDGET.replace("wall_ms", "wall"),
            "14:32: `metric`: unregistered metric 'wall'; did you mean `wall_ms`?",
            id="a unit missing",
        ),
        pytest.param(
            BUDGET.replace("99", "199"),
            "14:53: budget: window [20, 199] is longer than the run: its 100 steps are 0 to 99",
            id="a window longer than the run",
        ),
        pytest.param(
            BUDGET.replace("99]", "49], statistic: p95"),
            "14:48: budget: p95 at confidence 0.95 needs 101 steps",
            id="a p95 budget with 30 samples",
        ),
        pytest.param(
            BUDGET.replace("60", "{NVIDIA H20: 60}"),
            "14:78: budget: unknown GPU 'NVIDIA H20'; did you mean `NVIDIA H200`?",
            id="an unknown GPU name",
        ),
        pytest.param(
            BUDGET.replace("60", ".nan"),
            "14:65: `below`: NaN is no limit: nothing is above or below it",
            id="a limit of NaN",
        ),
        pytest.param(
            "{kind: equal_runs, of: {run: base, repeat: 2}, tolerance: 1e-5}",
            "14:67: `1e-5` is a string in YAML 1.1; write 1.0e-5 for the number, or quote it",
            id="1e-5 unquoted",
        ),
        pytest.param(
            BUDGET.replace("below: 60", ""),
            "14:9: give either below or above",
            id="no limit",
        ),
        pytest.param(
            "{kind: equal_runs, of: [base, bsae]}",
            "14:32: there is no run `bsae`; did you mean `base`?",
            id="a check naming a run that is not there",
        ),
    ],
)
def test_a_check_is_refused(project: Project, check: str, line: str) -> None:
    assert_refused_when_loaded(project, RUN + gate(check), line)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        pytest.param(
            "    run: base", "    run: bsae",
            "12:10: there is no run `bsae`; did you mean `base`?",
            id="a gate naming a run that is not there",
        ),
        pytest.param(
            "gates:\n", "gates:\n  - id: G\n",
            "12:9: duplicate id `G`; it stands in line 11 already",
            id="duplicate ids",
        ),
        pytest.param(
            "steps: 100\n", "steps: 1000000000\n",
            "9:12: 1000000000 steps exceed the cap of 100000; raise `gates_max_steps`",
            id="a billion steps",
        ),
        pytest.param(
            "seq_len: 64", "seq_len: 9999999",
            "8:17: 19999998 tokens a step exceed the cap of 4194304; raise `gates_max_step_tokens`",
            id="a step too large",
        ),
        pytest.param(
            "cuda:0", '"cuda\\n"',
            "4:13: `device`: expected cpu, cuda, cuda:0 to cuda:15, or auto; "
            'found the text "cuda\\n"',
            id="a device with a line's end",
        ),
        pytest.param(
            "cuda:0", "auto",
            "14:9: residency: device auto: residency needs an explicit cuda or cuda:N",
            id="residency of auto",
        ),
        pytest.param(
            "steps: 100\n", "steps: 100\n    timeout_s: 0\n",
            "10:16: `timeout_s`: expected a number greater than 0; found `0`",
            id="no time at all",
        ),
    ],
)  # fmt: skip
def test_what_a_check_stands_on_is_refused(project: Project, old: str, new: str, line: str) -> None:
    text = RUN + gate("{kind: residency, require: [L0, L1]}")
    assert_refused_when_loaded(project, text.replace(old, new, 1), line)


def test_evidence_outside_the_project_is_refused(project: Project) -> None:
    for path in ("../steps.jsonl", "/etc/passwd", "logs/../../steps.jsonl"):
        text = RECORDED.replace("steps.jsonl", path)
        assert_refused_when_loaded(project, text, f"9:20: `{path}` lies outside the project; ")


def test_the_caps_are_raised_by_pytests_configuration(project: Project) -> None:
    project.contract(RUN + gate(BUDGET))
    (project.root / "tox.ini").write_text("[pytest]\ngates_max_steps = 99\n")
    project.run().stdout.fnmatch_lines(["*100 steps exceed the cap of 99; *"])
    (project.root / "tox.ini").write_text("[pytest]\ngates_max_steps = 100\n")
    project.run().assert_outcomes(skipped=1)
    (project.root / "tox.ini").write_text("[pytest]\ngates_max_steps = many\n")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*gates_max_steps = 'many'*expected a positive number*"])


# --- found when it is read ---------------------------------------------------------------------


@pytest.fixture
def recorded(project: Project) -> Project:
    project.steps("steps.jsonl", wall_ms=QUICK)
    project.contract(RECORDED)
    return project


def test_evidence_behind_a_symbolic_link(recorded: Project) -> None:
    (recorded.root / "steps.jsonl").rename(recorded.root / "real.jsonl")
    (recorded.root / "steps.jsonl").symlink_to("real.jsonl")
    assert_red(recorded, recorded.run(), "steps.jsonl is a symbolic link; put the file itself")


def test_evidence_that_is_not_there_and_evidence_that_is_none(recorded: Project) -> None:
    (recorded.root / "steps.jsonl").write_text("{step: 0}\n")
    assert_red(recorded, recorded.run(), "steps.jsonl:1: not a line of JSON")
    (recorded.root / "steps.jsonl").unlink()
    assert_red(recorded, recorded.run(), "steps.jsonl: No such file or directory")


def test_evidence_with_a_wrong_hash_is_named_and_nothing_is_mended(recorded: Project) -> None:
    recorded.run().assert_outcomes(passed=1)
    (telemetry,) = (recorded.root / "evidence").glob("runs/*/telemetry-0.jsonl")
    telemetry.write_bytes(telemetry.read_bytes().replace(b"43.0", b"33.0"))
    before = snapshot(recorded.root)
    result = recorded.run()
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "GATE-MEDIAN TAMPERED" in text
    assert f"{telemetry.relative_to(recorded.root).as_posix()}: SHA-256 is " in text
    assert "Traceback" not in text
    assert snapshot(recorded.root) == before


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("evidence", "evidence cannot be written (Not a directory); nothing was kept"),
        ("evidence/records", "record cannot be written (Not a directory); nothing was kept"),
        (".pytest_gates", ".pytest_gates cannot be written: "),
        (".pytest_gates/evidence", "evidence cannot be written (File exists); nothing was kept"),
        (".pytest_gates/sessions", "Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_written(recorded: Project, folder: str, reason: str) -> None:
    # Tests may run as root, whom no permission stops; a file in the folder's place does.
    path = recorded.root / folder
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file where the folder belongs")
    assert_red(recorded, recorded.run(), reason)
    path.unlink()
    recorded.run().assert_outcomes(passed=1)


def test_a_ledger_that_cannot_be_listed(recorded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item says so: what could not be read is not taken for an empty ledger."""

    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(ledger, "shards_of", refuse)
    assert_red(recorded, recorded.run("--gates-replay"), "records: Permission denied")


def test_evidence_beyond_its_limit(recorded: Project) -> None:
    (recorded.root / "tox.ini").write_text("[pytest]\ngates_evidence_limit_mib = 0.0001\n")
    assert_red(recorded, recorded.run(), "the limit is 104")


# --- live runs ---------------------------------------------------------------------------------

LIVE = """
    contract_id: C-LIVE
    runs:
      base:
        driver: pretrain
        device: cpu
        model: {hidden: 8, layers: 1, heads: 2, kv_heads: 1, intermediate: 8, vocab: 256}
        data: {shards: [tokens.bin]}
        seq_len: 8
        batch_size: 1
        steps: 400
    gates:
      - id: GATE-LIVE
        rule: Every loss is a number.
        run: base
        checks: [{kind: finite, metrics: [train_loss]}]
        verdict: pending
"""


def live(project: Project, text: str = LIVE) -> Path:
    """A project with a run of a tiny model over tokens of its own."""
    np.zeros(1000, dtype=np.uint16).tofile(project.root / "tokens.bin")
    return project.contract(text)


def test_a_disk_that_fills_up_in_the_middle_of_a_run(project: Project) -> None:
    contract = live(project)
    before = contract.read_bytes()

    def no_more_than_20_kib() -> None:
        # A limit on the size of files is the full disk that a test can have without one.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_480, 20_480))

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN, "-p", "no:cacheprovider", "--gates", "contracts"],
        cwd=project.root, capture_output=True, text=True, preexec_fn=no_more_than_20_kib,
        env=NO_BYTECODE, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    reason = "run base ended IO_ERROR: File too large; nothing was recorded"
    assert f"  because   {reason}" in ended.stdout
    assert "contracts/claims.yaml:12:5: GATE-LIVE ERROR" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not (project.root / "evidence").exists()
    assert contract.read_bytes() == before
    # With the disk free again it passes, and what is kept then names no host, user or home.
    project.process().assert_outcomes(passed=1)
    kept = b"".join(snapshot(project.root / "evidence").values()).decode()
    for word in (os.uname().nodename, str(project.root), str(Path.home())):
        assert word not in kept


def test_how_a_run_ended_is_evidence_and_told_with_every_verdict(project: Project) -> None:
    live(
        project,
        LIVE.replace("steps: 400", "steps: 400\n        stimulus: {kind: kill, step: 5}").replace(
            "    gates:",
            "      hangs: {from: base, steps: 100000, timeout_s: 0.5, stimulus: null}\n    gates:",
        )
        + """
      - id: GATE-KILLED
        run: base
        checks: [{kind: exit_status, expect: KILLED}]
        verdict: pending
      - id: GATE-SURVIVES
        run: base
        checks: [{kind: exit_status}]
        verdict: pending
      - id: GATE-IN-TIME
        run: hangs
        checks: [{kind: exit_status}]
        verdict: pending
""",
    )
    result = project.process()
    result.assert_outcomes(passed=1, failed=3)
    text = result.stdout.str()
    assert "GATE-LIVE INCONCLUSIVE" in text
    assert "run ended KILLED after 5 steps" in text
    assert "ended KILLED (ended by SIGKILL, its own stimulus at step 5), not COMPLETED" in text
    assert "400 steps of 1 x 8, kill at step 5" in text
    assert "ended TIMEOUT (ended after 0.5 s, its time limit), not COMPLETED" in text
    verdicts = [
        line.split(": ", 1)[1]
        for line in (project.contracts / "claims.yaml").read_text(encoding="utf-8").splitlines()
        if line.startswith("    verdict: ")
    ]
    assert verdicts == ["inconclusive", "pass", "fail", "fail"]
    assert list((project.root / ".pytest_gates" / "staging").iterdir()) == []


def test_ctrl_c_ends_the_run_and_leaves_nothing_half_written(project: Project) -> None:
    contract = live(project, LIVE.replace("steps: 400", "steps: 100000"))
    before = contract.read_bytes()
    command = [sys.executable, "-m", "pytest", *PLUGIN, "--gates", "contracts"]
    cache = project.root / ".pytest_gates"
    with subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, text=True) as session:
        telemetry = when_there(cache, "staging/*/out/telemetry-0.jsonl")
        below = psutil.Process(session.pid).children(recursive=True)
        assert len(below) >= 2, "the forkserver and the run"
        session.send_signal(signal.SIGINT)
        assert session.stdout is not None
        said = session.stdout.read()
        assert session.wait(300) == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in said
    assert not telemetry.exists()
    assert list((cache / "staging").iterdir()) == []
    assert not (cache / "evidence").exists() or list((cache / "evidence").iterdir()) == []
    assert not (project.root / "evidence").exists()
    assert contract.read_bytes() == before
    _, alive = psutil.wait_procs(below, timeout=60)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def when_there(folder: Path, pattern: str, within_s: float = 300.0) -> Path:
    """The first file of that pattern that holds something."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        found = next((one for one in folder.glob(pattern) if one.stat().st_size), None)
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} within {within_s} s")

"""The plugin as a user meets it: real files, a real pytest session."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from project import RECORDED, Project, dedented

import pytest_gates.plugin

QUICK = [40.0 + (index % 7) for index in range(30)]
SLOW = [200.0 + (index % 7) for index in range(30)]


@pytest.fixture
def recorded(project: Project) -> Project:
    project.steps("steps.jsonl", wall_ms=QUICK)
    project.contract(RECORDED)
    return project


def test_a_recorded_run_is_judged_and_its_verdict_written_back(recorded: Project) -> None:
    before = (recorded.contracts / "claims.yaml").read_text(encoding="utf-8")
    result = recorded.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*GATE-MEDIAN*pending*PASS*DECLARED*median 43 ms*100 ms*"])
    after = (recorded.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert "verdict: pass   # typed by nobody\n    verdict_basis:\n" in after
    assert "version: 1.1.0\n" in after
    assert 'version: "1.1.0"' in after
    assert 'discharge_status: "PARTIAL_ALGORITHM_LEVEL"' in after
    kept = [line for line in before.splitlines() if "erdict:" not in line and "ersion" not in line]
    assert all(line in after.splitlines() for line in kept)
    (record,) = recorded.records
    data = json.loads(record.read_text(encoding="utf-8"))
    assert data["verdict"] == "pass"
    assert data["host"] == {"gpu": "NVIDIA H200", "driver": None, "torch": None, "declared": True}


def test_the_same_contract_judged_twice_changes_nothing(recorded: Project) -> None:
    recorded.run()
    contract = (recorded.contracts / "claims.yaml").read_bytes()
    files = sorted(path for path in (recorded.root / "evidence").rglob("*"))
    recorded.run().assert_outcomes(passed=1)
    assert (recorded.contracts / "claims.yaml").read_bytes() == contract
    assert sorted(path for path in (recorded.root / "evidence").rglob("*")) == files


def test_a_changed_verdict_is_recorded_with_the_old_record_as_its_parent(recorded: Project) -> None:
    recorded.run()
    (first,) = recorded.records
    recorded.steps("steps.jsonl", wall_ms=SLOW)
    result = recorded.run()
    result.assert_outcomes(failed=1)
    assert len(recorded.records) == 2
    second = next(path for path in recorded.records if path != first)
    assert json.loads(second.read_text(encoding="utf-8"))["parents"] == [first.stem]
    after = (recorded.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert "verdict: fail" in after
    assert "version: 1.2.0" in after


def test_a_red_gate_tells_place_rule_figure_limit_and_interval_and_no_traceback(
    recorded: Project,
) -> None:
    recorded.steps("steps.jsonl", wall_ms=SLOW)
    result = recorded.run()
    text = result.stdout.str()
    assert "contracts/claims.yaml:12:5: GATE-MEDIAN FAIL" in text
    for part in ("The median step is quick.", "median 203 ms", "< 100 ms", "interval [", "n = 30"):
        assert part in text
    assert "Traceback" not in text
    assert "items.py" not in text


def test_the_short_summary_and_junit_have_the_reason_in_one_line(recorded: Project) -> None:
    recorded.steps("steps.jsonl", wall_ms=SLOW)
    result = recorded.run("--junitxml=junit.xml")
    (line,) = [line for line in result.outlines if line.startswith("FAIL contracts/")]
    assert line.startswith("FAIL contracts/claims.yaml::GATE-MEDIAN - median 203 ms")
    junit = (recorded.root / "junit.xml").read_text(encoding="utf-8")
    assert '<failure message="median 203 ms of wall_ms, limit &lt; 100 ms: 30 of 30' in junit
    assert "GATE-MEDIAN FAIL\n  rule      The median step is quick." in junit


def test_record_never_prints_the_diff_it_would_write(recorded: Project) -> None:
    before = (recorded.contracts / "claims.yaml").read_bytes()
    result = recorded.run("--gates-record", "never")
    assert (recorded.contracts / "claims.yaml").read_bytes() == before
    assert not recorded.records
    result.stdout.fnmatch_lines(
        [
            "would write contracts/claims.yaml (GATE-MEDIAN):",
            "-    verdict: pending *",
            "+    verdict: pass *",
        ]
    )


def test_ci_writes_nothing(recorded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    before = (recorded.contracts / "claims.yaml").read_bytes()
    recorded.run().assert_outcomes(passed=1)
    assert (recorded.contracts / "claims.yaml").read_bytes() == before
    assert not recorded.records


def test_a_verdict_typed_by_hand_is_red(recorded: Project) -> None:
    path = recorded.contracts / "claims.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("verdict: pending", "verdict: pass"))
    result = recorded.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*claims.yaml:12:5: GATE-MEDIAN UNFOUNDED*"])
    assert "set it to `pending`" in result.stdout.str()
    assert not recorded.records


def test_an_edited_basis_is_red(recorded: Project) -> None:
    recorded.run()
    path = recorded.contracts / "claims.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("median 43 ms", "median 23 ms"))
    result = recorded.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GATE-MEDIAN TAMPERED*", "*it was edited*"])


def test_one_byte_of_recorded_evidence_changed_is_red_and_names_the_file(recorded: Project) -> None:
    recorded.run()
    (telemetry,) = (recorded.root / "evidence").glob("runs/*/telemetry-0.jsonl")
    data = bytearray(telemetry.read_bytes())
    data[data.index(b"43")] ^= 1
    telemetry.write_bytes(bytes(data))
    result = recorded.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GATE-MEDIAN TAMPERED*"])
    assert telemetry.relative_to(recorded.root).as_posix() in result.stdout.str()


def test_a_deleted_record_leaves_its_verdict_unfounded(recorded: Project) -> None:
    recorded.run()
    recorded.records[0].unlink()
    result = recorded.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GATE-MEDIAN UNFOUNDED*", "*which is not there*"])


def test_prose_is_blocked_and_counted_and_a_foreign_word_is_pending(project: Project) -> None:
    project.contract(
        """
        gates:
          - id: GATE-PROSE
            rule: Somebody looked at nvidia-smi.
            verdict: active
            evidence_required: a screenshot
        falsification_tests:
          - id: FALSIFY-PROSE
            prediction: it works
        """
    )
    result = project.run("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        ["*prose only, nothing executable: 1*", "*BLOCKED *claims.yaml:2: nothing executable*"]
    )


def test_prose_with_a_verdict_of_pass_is_unfounded(project: Project) -> None:
    project.contract("gates:\n  - {id: GATE-PROSE, rule: It works., verdict: pass}\n")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GATE-PROSE UNFOUNDED*"])


def test_a_gpu_gate_without_gpu_and_evidence_is_blocked_never_a_pass(project: Project) -> None:
    project.contract(GPU)
    result = project.run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*BLOCKED *claims.yaml:12: *no recorded evidence*"])
    for mode in ("--gates-strict", "--gates-live"):
        project.run(mode).assert_outcomes(failed=1)


GPU = """
    runs:
      gpu:
        driver: pretrain
        device: cuda:15
        model: llama-1m
        data: {corpus: python-stdlib}
        seq_len: 32
        batch_size: 2
        steps: 4
        optimizer: {warmup_steps: 1}
    gates:
      - id: GATE-GPU
        run: gpu
        checks: [{kind: finite, metrics: [train_loss]}]
        verdict: pending
"""


def test_replay_runs_nothing_and_says_so(project: Project) -> None:
    project.contract(PROBE)
    project.run("--gates-replay").assert_outcomes(skipped=2)
    project.run().assert_outcomes(passed=1, skipped=1)
    staged = sorted((project.root / ".pytest_gates" / "evidence").iterdir())
    result = project.run("--gates-replay", "-v")
    assert sorted((project.root / ".pytest_gates" / "evidence").iterdir()) == staged
    result.stdout.fnmatch_lines(["*GATE-ENV PASS REPLAYED*", "*1 replayed*"])
    assert result.ret == 0
    live = project.run("--gates-replay", "--gates-live")
    assert live.ret == 1
    live.stdout.fnmatch_lines(["REPLAYED contracts/*::GATE-ENV - replayed from record*"])


PROBE = """
    contract_id: C-ENV
    runs:
      hidden: {driver: probe, host: {cuda: hidden}}
    gates:
      - id: GATE-ENV
        rule: A hidden device is not counted.
        run: hidden
        checks: [{kind: fact, fact: cuda_devices, equals: 0}]
        verdict: pending
        ship_blocking: true
      - id: GATE-OTHER
        rule: prose
"""


def test_the_usual_habits_of_pytest_work(project: Project) -> None:
    project.contract(PROBE)
    never = ("--gates-record", "never")
    project.run("-k", "ENV", *never).assert_outcomes(passed=1)
    project.run("-m", "ship_blocking", *never).assert_outcomes(passed=1)
    listed = project.run("--collect-only", "-q")
    listed.stdout.fnmatch_lines(
        ["contracts/claims.yaml::GATE-ENV", "contracts/claims.yaml::GATE-*"]
    )
    told = project.run("--collect-only")
    told.stdout.fnmatch_lines(["*GateItem GATE-ENV: runs hidden: probe*checks fact*"])
    node = project.run("contracts/claims.yaml::GATE-OTHER", *never)
    node.assert_outcomes(skipped=1)
    assert "GATE-ENV" not in node.stdout.str()


def test_junit_properties_carry_verdict_figure_limit_and_record(recorded: Project) -> None:
    recorded.run("--junitxml", "out.xml")
    xml = (recorded.root / "out.xml").read_text(encoding="utf-8")
    properties = dict(re.findall(r'<property name="([^"]+)" value="([^"]*)"', xml))
    assert properties["verdict"] == "pass"
    assert properties["mode"] == "DECLARED"
    assert properties["figure"] == "median 43 ms"
    assert properties["limit"] == "&lt; 100 ms"
    assert properties["record"] == recorded.records[0].stem


def test_a_typo_is_one_clear_line_with_its_place_and_nothing_runs(recorded: Project) -> None:
    path = recorded.contracts / "claims.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("statistic:", "statistik:"))
    result = recorded.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["contracts/claims.yaml:16:57: unknown key `statistik`; did you mean `statistic`?"]
    )
    assert not (recorded.root / "evidence").exists()


def test_yaml_of_other_plugins_is_not_ours(recorded: Project) -> None:
    (recorded.root / "other.yaml").write_text("gates: [{id: GATE-FOREIGN}]\n")
    result = recorded.run(".")
    assert "GATE-FOREIGN" not in result.stdout.str()


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        ("contracts", "contracts"),
        ("contracts/claims.yaml", "contracts"),
        ("contracts/claims.yaml::GATE-MEDIAN", "contracts"),
        ("other", None),
    ],
)
def test_contracts_without_the_option_are_answered_with_the_option(
    recorded: Project, typed: str, folder: str | None
) -> None:
    other = recorded.root / "other"
    other.mkdir()
    (other / "site.yaml").write_text("# of another tool\npages: []\n", encoding="utf-8")
    result = recorded.pytester.runpytest_inprocess(typed, plugins=[pytest_gates.plugin])
    assert result.ret in {pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR}
    told = [line for line in result.outlines if "--gates" in line]
    expected = f"contracts are items of `pytest --gates {folder}` only"
    assert told == ([] if folder is None else [expected])


def test_a_missing_folder_is_said(project: Project) -> None:
    result = project.pytester.runpytest_subprocess(
        "-p", "pytest_gates.plugin", "--gates", "nowhere"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gates nowhere: there is no such file or folder*"])


def test_a_contract_edited_while_the_run_lasted_is_left_alone(recorded: Project) -> None:
    recorded.pytester.makeconftest(
        """
        import pathlib
        def pytest_runtest_teardown(item):
            path = pathlib.Path("contracts/claims.yaml")
            path.write_text(path.read_text().replace("The median step is quick.", "Edited."))
        """
    )
    result = recorded.run()
    text = (recorded.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert "Edited." in text
    assert "verdict: pending" in text
    result.stdout.fnmatch_lines(["not written: contracts/claims.yaml*"])
    # The record is there, so that the next session finishes the job.
    assert len(recorded.records) == 1
    (recorded.root / "conftest.py").unlink()
    recorded.run()
    assert "verdict: pass" in (recorded.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert len(recorded.records) == 1


def test_xdist_workers_share_runs_and_the_controller_writes_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = """
        contract_id: C-SHARED
        version: 1.0.0
        runs:
          hidden: {driver: probe, host: {cuda: hidden}}
        gates:
        """
    gates = (
        f"- id: GATE-{index}\n  run: hidden\n"
        "  checks: [{kind: fact, fact: cuda_devices, equals: 0}]\n  verdict: pending\n"
        for index in range(6)
    )
    project.contract(dedented(head) + "".join(gates))
    result = project.process("-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=6)
    assert len(list((project.root / ".pytest_gates" / "evidence").iterdir())) == 1
    text = (project.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert text.count("verdict: pass") == 6
    assert "version: 1.1.0" in text
    assert len(project.records) == 6


def test_installed_but_unused_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, pytest_gates.plugin\n"
        "heavy = {'torch', 'yaml', 'pydantic', 'numpy', 'hypothesis', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

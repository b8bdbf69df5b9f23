"""What real teams wrote down, as they wrote it: their contracts load, their figures come out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from project import Project

FIELD = Path(__file__).parent.parent.parent / "shared" / "field"
REPORT = "rtx4090-370m-seq512-100step.stdout.json"
LINES = "rtx4090-370m-seq512-100step.jsonl"
SAMPLES = "nvidia-smi-during-run.csv"

pytestmark = pytest.mark.skipif(not FIELD.is_dir(), reason="the field's data are not here")

OURS = f"""
contract_id: C-FIELD
runs:
  report:
    driver: recorded
    files: [{{path: {REPORT}, format: json}}, {{path: {SAMPLES}, format: nvidia-smi-csv}}]
    declares:
      model: llama-370m
      device: cuda:0
      seq_len: 512
      batch_size: 16
      steps: 100
      pid: 1658504
      host: {{gpu: NVIDIA GeForce RTX 4090}}
  lines: {{from: report, files: [{{path: {LINES}, format: jsonl}}]}}
gates:
"""
BUDGET = "kind: budget, metric: wall_ms, statistic: median, below: {NVIDIA GeForce RTX 4090: 500}"


def our_gate(name: str, check: str, run: str = "report", **keys: str) -> str:
    more = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    return f"  - id: {name}\n    run: {run}\n{more}    checks: [{check}]\n    verdict: pending\n"


@pytest.fixture
def field(project: Project) -> Project:
    for name in (REPORT, LINES, SAMPLES):
        shutil.copy(FIELD / name, project.root / name)
    return project


# --- their contracts ---------------------------------------------------------------------------


@pytest.fixture
def theirs(project: Project) -> Project:
    for path in (FIELD / "contracts").glob("*.yaml"):
        shutil.copy(path, project.contracts / path.name)
    return project


def test_their_contracts_load_as_they_are_and_the_tally_counts_their_prose(theirs: Project) -> None:
    before = {path: path.read_bytes() for path in theirs.contracts.iterdir()}
    result = theirs.run()
    # 8 gates and 73 falsifiers, all prose: 3 gates say `active`, 5 say `pass`.
    result.assert_outcomes(failed=5, skipped=76)
    text = result.stdout.str()
    assert "prose only, nothing executable: 8" in text
    for line in ("gates: 8", "nothing executable"):
        assert line in text
    assert "Traceback" not in text
    assert {path: path.read_bytes() for path in theirs.contracts.iterdir()} == before
    assert not (theirs.root / "evidence").exists()


def test_their_pass_without_a_record_is_unfounded_and_their_active_is_pending(
    theirs: Project,
) -> None:
    result = theirs.run("-v", "-rs", "-k", "GATE")
    found = re.findall(r"(\S+\.yaml)::(\S+) (UNFOUNDED|BLOCKED)", result.stdout.str())
    words = {gate: word for _, gate, word in found}
    assert words == {
        "GATE-GPUTRAIN-001": "BLOCKED",
        "GATE-GPUTRAIN-003": "BLOCKED",
        "GATE-GPUTRAIN-004": "BLOCKED",
        "GATE-TRAIN-001": "UNFOUNDED",
        "GATE-TRAIN-003": "UNFOUNDED",
        "GATE-TRAIN-005": "UNFOUNDED",
        "GATE-TRAIN-006": "UNFOUNDED",
        "GATE-TRAIN-EXHAUST": "UNFOUNDED",
    }
    result.stdout.fnmatch_lines(
        [
            "*training-loop-pretrain-excerpt.yaml:151:5: GATE-TRAIN-001 UNFOUNDED",
            "*the contract says `verdict: pass`, and no record carries it*",
        ]
    )
    assert "gpu-training-backend-excerpt.yaml:59: nothing executable" in result.stdout.str()


# --- their recorded run ------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["report", "lines"])
def test_their_run_gives_exactly_their_figures(field: Project, run: str) -> None:
    text = (
        our_gate("GATE-ALL", f"{{{BUDGET}, steps: [0, 99]}}", run)
        + our_gate("GATE-WINDOW", f"{{{BUDGET}, steps: [20, 49]}}", run)
        + our_gate("GATE-FALL", "{kind: descent, steps: [0, 99]}", run)
    )
    field.contract(OURS + text)
    result = field.run()
    result.assert_outcomes(passed=3)
    records = {
        record["subject"]: record
        for record in (json.loads(path.read_text(encoding="utf-8")) for path in field.records)
    }
    whole, window = (records[name]["observed"][0] for name in ("GATE-ALL", "GATE-WINDOW"))
    assert whole["value"] == pytest.approx(264.72005, abs=1e-9)  # of 264.70258 and 264.73752
    assert (whole["n"], whole["window"]) == (100, [0, 99])
    assert round(window["value"], 2) == 265.95
    assert (window["n"], window["window"]) == (30, [20, 49])
    assert round(whole["headroom_pct"]) == round(window["headroom_pct"]) == 47
    assert records["GATE-ALL"]["host"] == {
        "gpu": "NVIDIA GeForce RTX 4090", "driver": None, "torch": None, "declared": True,
    }  # fmt: skip
    descent = records["GATE-FALL"]["observed"][0]
    assert "a fall of 0.5227" in descent["summary"]
    # Its loss starts at 11.02, near ln(50257) = 10.82; what it proves is DECLARED, so PARTIAL.
    contract = (field.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert '"PARTIAL_ALGORITHM_LEVEL"' in contract
    assert "ACTIVE_WITH_LIVE_EVIDENCE" not in contract
    result.stdout.fnmatch_lines(["*GATE-WINDOW*PASS*DECLARED*median 26*< 500 ms*+46.8 %*"])


def test_that_the_run_aborted_is_shown_with_the_verdict(field: Project) -> None:
    field.contract(
        OURS
        + our_gate("GATE-WINDOW", f"{{{BUDGET}, steps: [20, 49]}}")
        + our_gate("GATE-STATUS", "{kind: exit_status, expect: COMPLETED}")
    )
    result = field.run()
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert (
        "ended ABORTED (DIVERGENCE at epoch 0: val_loss 10.31299 is non-finite or > 10.0)" in text
    )
    assert "run report ended ABORTED" in text
    records = [json.loads(path.read_text(encoding="utf-8")) for path in field.records]
    assert {record["reason"] for record in records} == {"run report ended ABORTED"}
    # The finished window is admissible, and its basis in the contract says how the run ended.
    contract = (field.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert contract.count("run report ended ABORTED") == 2


def test_their_run_does_not_discharge_the_gate_of_another_shape(field: Project) -> None:
    # Their contract cites this run as a basis for its 1 x 2048 gate.
    gate = our_gate(
        "GATE-2048", f"{{{BUDGET}, steps: [20, 49]}}", requires="{seq_len: 2048, batch_size: 1}"
    )
    path = field.contract(OURS + gate)
    before = path.read_bytes()
    result = field.run("-rs")
    result.assert_outcomes(skipped=1)
    reason = (
        "run report: evidence has seq_len 512, the gate declares 2048; "
        "evidence has batch_size 16, the gate declares 1"
    )
    assert reason in result.stdout.str()
    assert path.read_bytes() == before
    assert not field.records


def test_one_sample_of_nvidia_smi_proves_a_moment_and_no_residency(field: Project) -> None:
    check = "{kind: residency, require: [L3], floor: census}"
    field.contract(OURS + our_gate("GATE-RESIDENT", check))
    result = field.run()
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "GATE-RESIDENT INCONCLUSIVE" in text
    assert "L3 UNAVAILABLE" in text

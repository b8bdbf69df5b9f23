"""A counterexample is evidence: stored with its run, and tried first the next time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from project import Project

FAILS = """
    contract_id: C-SEARCH
    runs:
      path:
        driver: forward
        device: cpu
        model: {hidden: 16, layers: 2, heads: 2, kv_heads: 1, intermediate: 24, vocab: 256}
        properties: [{name: reference, atol: 0.0, length: 6}]
    gates:
      - id: GATE-SEARCH
        run: path
        checks: [{kind: property, property: reference}]
        verdict: pending
"""
HOLDS = """
    contract_id: C-SEARCH
    runs:
      rules: {driver: probe, properties: [{name: schedule, examples: 25}]}
    gates:
      - id: GATE-SEARCH
        run: rules
        checks: [{kind: property, property: schedule}]
        verdict: pending
    falsification_tests:
      - id: FALSIFY-SEARCH
        binds_to: GATE-SEARCH
        inject: {fault: schedule_per_micro_batch}
        expect: {verdict: fail, check: property}
"""


def searches(folder: Path) -> list[dict[str, Any]]:
    """What the searches of all evidence in a folder came to."""
    lines = [
        json.loads(line)
        for path in sorted(folder.glob("*/telemetry-0.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if line["kind"] == "property"]


@pytest.mark.parametrize(
    ("record", "folder"), [("always", "evidence/runs"), ("never", ".pytest_gates/evidence")]
)
def test_a_counterexample_is_stored_as_evidence_and_tried_first(
    project: Project, record: str, folder: str
) -> None:
    project.contract(FAILS)
    result = project.run("--gates-record", record)
    result.assert_outcomes(failed=1)
    (found,) = searches(project.root / folder)
    assert "known" not in found["counterexample"]
    shown = f"reference fails for tokens={found['counterexample']['tokens']}"
    assert shown in result.stdout.str()
    assert project.run("--gates-record", record).ret == pytest.ExitCode.TESTS_FAILED
    again = [one for one in searches(project.root / folder) if "known" in one["counterexample"]]
    assert [one["examples"] for one in again] == [1]
    assert again[0]["counterexample"] == found["counterexample"] | {"known": True}
    # A third time the same one is known once, not twice.
    project.run("--gates-record", record)
    assert {one["examples"] for one in searches(project.root / folder)[1:]} <= {
        1, found["examples"]
    }  # fmt: skip


def test_what_a_sabotaged_run_found_is_not_known_of_the_run(project: Project) -> None:
    project.contract(HOLDS)
    for _ in range(2):
        project.run().assert_outcomes(passed=2)
    told = searches(project.root / ".pytest_gates" / "evidence")
    clean = [one for one in told if one["counterexample"] is None]
    sabotaged = [one for one in told if one["counterexample"] is not None]
    assert {one["examples"] for one in clean} == {25}
    assert sabotaged
    assert not any("known" in one["counterexample"] for one in sabotaged)

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
    ("record", "folder"),
    [
        ("always", "evidence/runs"),
        pytest.param("never", ".pytest_gates/evidence", marks=pytest.mark.slow),
    ],
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


@pytest.mark.slow
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


PATH_PROPERTIES: list[dict[str, Any]] = [
    {"name": "decode_equals_prefill", "atol": 0.0},
    {"name": "position_shift", "atol": 0.0},
    {"name": "padding", "atol": 0.0},
]


@pytest.mark.parametrize("declared", PATH_PROPERTIES, ids=lambda one: str(one["name"]))
def test_every_case_of_a_path_can_be_recalled(declared: dict[str, Any]) -> None:
    """At a tolerance of 0 rounding alone falsifies; what was found is found again at once."""
    import torch
    from pydantic import TypeAdapter

    from pytest_gates.model.config import Architecture, ModelProperty
    from pytest_gates.model.forward import ForwardPath
    from pytest_gates.model.properties.of_paths import OF_A_PATH
    from pytest_gates.model.properties.search import search
    from pytest_gates.model.transformer import initialised

    cpu = torch.device("cpu")
    shape = Architecture(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48, vocab=64)
    path = ForwardPath(initialised(shape, cpu, 1).eval(), cpu, torch.float32)
    wanted: Any = TypeAdapter(ModelProperty).validate_python(declared)
    sought = OF_A_PATH[wanted.name](wanted, path)
    first = search(wanted.name, sought).counterexample
    assert first is not None
    again = search(wanted.name, sought, [first, {"tokens": [99]}, {}])
    assert (again.examples, again.counterexample) == (1, first | {"known": True})


def test_a_counterexample_that_is_mended_is_tried_and_the_search_goes_on() -> None:
    from pytest_gates.model.properties.search import search
    from pytest_gates.model.seams import CLEAN
    from pytest_gates.model.searches import BudgetRule
    from pytest_gates.properties import OF_JUDGING

    sought = OF_JUDGING["budget_rule"](BudgetRule(name="budget_rule", examples=30), CLEAN)
    known = [{"case": [29, 1, 1, 0]}, {"case": [7, 9, 0, 0]}, {"case": "none"}]
    outcome = search("budget_rule", sought, known)
    assert (outcome.examples, outcome.counterexample) == (31, None)

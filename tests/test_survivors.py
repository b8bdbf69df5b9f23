"""What the audit says of falsifiers that survived although their gate is said to pass."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from audited import TRAINED, edit
from project import Project

from pytest_gates import cli
from pytest_gates.canonical import canonical, digest

BLIND, SEEING = "1.0e+9", "12.0"
AUDIT = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def audit(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AUDIT:
    """Code and text of what is found and noted about falsifiers; status 1 if any is a finding."""

    def run() -> list[tuple[str, str]]:
        monkeypatch.chdir(project.root)
        capsys.readouterr()
        status = cli.main(["audit", "contracts", "--json"])
        told = json.loads(capsys.readouterr().out)
        assert status == (1 if told["findings"] else 0)
        return [
            (one["code"], one["what"])
            for one in (*told["findings"], *told["notes"])
            if one["subject"] == "C-TRAINED::FALSIFY-TRAINED"
        ]

    return run


def falsifiers_records(project: Project) -> list[dict[str, object]]:
    records = [json.loads(path.read_bytes()) for path in project.records]
    return [one for one in records if one["subject"] == "FALSIFY-TRAINED"]


def test_a_survivor_of_a_gate_that_passes_is_found_until_it_is_caught(
    project: Project, audit: AUDIT
) -> None:
    project.contract(TRAINED % BLIND)
    project.run("-k", "FALSIFY").assert_outcomes(failed=1)
    assert [one["verdict"] for one in falsifiers_records(project)] == ["fail"]
    assert audit() == []  # the gate claims nothing yet
    project.run().assert_outcomes(passed=1, failed=1)
    ((code, what),) = audit()
    assert code == "PG109"
    assert what.startswith("GATE-TRAINED claims pass, record ")
    assert " says SURVIVED on the CPU: with the fault the gate is pass" in what
    # Declared otherwise it is not judged yet, and that is no way to be rid of it unseen.
    edit(project, "step: 2", "step: 3")
    ((code, what),) = audit()
    assert code == "PG212"
    assert " says SURVIVED on the CPU" in what
    edit(project, f"below: {BLIND}", f"below: {SEEING}")
    project.run().assert_outcomes(passed=2)
    assert audit() == []


def test_a_survivor_on_one_gpu_is_not_answered_by_another(project: Project, audit: AUDIT) -> None:
    project.contract(TRAINED % SEEING)
    project.run().assert_outcomes(passed=2)
    (caught,) = falsifiers_records(project)
    assert isinstance(caught["host"], dict)
    survived = caught | {
        "verdict": "fail",
        "reason": "with the fault the gate is pass",
        "host": caught["host"] | {"gpu": "NVIDIA H200"},
        "parents": [digest(caught)],
    }
    for record in (survived, caught | {"parents": [digest(survived)]}):
        path = project.root / "evidence/records" / digest(record)[:2] / f"{digest(record)}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(canonical(record))
        found = [what for code, what in audit() if code == "PG109"]
        assert len(found) == 1
        assert "says SURVIVED on NVIDIA H200: with the fault the gate is pass" in found[0]

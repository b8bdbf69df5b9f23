"""Attempts: a gate that was run again until it was green shows how often."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import RECORDED, Project

from pytest_gates.attempts import note_attempt
from pytest_gates.checks.base import Verdict

FAIL, INCONCLUSIVE, PASS = Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        ([PASS], [1]),
        ([PASS, PASS], [1, 1]),
        ([FAIL, INCONCLUSIVE, PASS], [1, 2, 3]),
        ([FAIL, PASS, FAIL, FAIL, PASS, PASS], [1, 2, 1, 2, 3, 1]),
    ],
)
def test_attempts_are_counted_from_the_last_pass(
    tmp_path: Path, verdicts: list[Verdict], counts: list[int]
) -> None:
    assert [note_attempt(tmp_path, "C", "G", "a" * 64, one) for one in verdicts] == counts


def test_a_line_that_a_full_disk_cut_off_is_no_attempt_and_spoils_no_other(tmp_path: Path) -> None:
    for verdict in (FAIL, FAIL):
        note_attempt(tmp_path, "C", "G", "a" * 64, verdict)
    [file] = (tmp_path / "attempts").iterdir()
    for odd in (b'{"gate": "a', b"[1]\n{}\n\xff\n", b"[" * 100_000 + b"\n"):
        with file.open("ab") as stream:
            stream.write(odd)
    assert note_attempt(tmp_path, "C", "G", "a" * 64, FAIL) == 3
    assert note_attempt(tmp_path, "C", "G", "a" * 64, PASS) == 4


def test_a_gate_that_was_declared_otherwise_begins_anew(tmp_path: Path) -> None:
    for verdict in (FAIL, FAIL):
        note_attempt(tmp_path, "C", "G", "a" * 64, verdict)
    assert note_attempt(tmp_path, "C", "G", "b" * 64, PASS) == 1
    assert note_attempt(tmp_path, "C", "G", "a" * 64, PASS) == 3
    assert note_attempt(tmp_path, "C", "OTHER", "a" * 64, FAIL) == 1
    assert note_attempt(tmp_path, "OTHER", "G", "a" * 64, FAIL) == 1


def test_the_attempts_before_a_pass_are_in_its_record_and_its_basis(project: Project) -> None:
    project.contract(RECORDED)
    slow, quick = [200.0 + index % 7 for index in range(30)], [40.0 + i % 7 for i in range(30)]
    for columns, outcome in ((slow, "failed"), (slow, "failed"), (quick, "passed")):
        project.steps("steps.jsonl", wall_ms=columns)
        project.run().assert_outcomes(**{outcome: 1})
    records = [json.loads(path.read_text(encoding="utf-8")) for path in project.records]
    passed = next(one for one in records if one["verdict"] == "pass")
    assert passed["attempts"] == 3
    assert "attempts: 3" in (project.contracts / "claims.yaml").read_text(encoding="utf-8")

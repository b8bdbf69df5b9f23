"""Two branches recorded: the ledger merges by itself, `sync` writes the contract anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited import QUICK, SLOW, git, text_of
from project import RECORDED, Project

from pytest_gates import cli
from pytest_gates.errors import WriteBackRefusedError
from pytest_gates.syncing import resolved

CHANGELOG = '  changelog:\n    - "1.0.0: first"\n# ──'


@pytest.fixture
def merged(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A merge of two branches that judged one gate, the one pass and the other fail."""
    monkeypatch.chdir(project.root)
    project.steps("steps.jsonl", wall_ms=SLOW)
    project.contract(RECORDED.replace("    # ──", "    " + CHANGELOG.replace("\n", "\n    ")))
    git(project, "init", "--quiet")
    (project.root / ".gitignore").write_text("/.pytest_gates/\n__pycache__/\n*.pyc\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "pending")
    git(project, "switch", "--quiet", "-c", "other")
    project.run().assert_outcomes(failed=1)
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "fail")
    git(project, "switch", "--quiet", "main")
    project.steps("steps.jsonl", wall_ms=QUICK)
    project.run().assert_outcomes(passed=1)
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "pass")
    with pytest.raises(Exception, match="non-zero exit status"):
        git(project, "merge", "other")
    git(project, "checkout", "--ours", "steps.jsonl")
    return project


def test_a_conflict_in_the_derived_block_is_resolved_and_the_worse_verdict_counts(
    merged: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "<<<<<<<" in text_of(merged)
    assert len(merged.records) == 2
    assert cli.main(["sync", "contracts"]) == 0
    text = text_of(merged)
    assert "<<<<<<<" not in text
    assert "verdict: fail   # typed by nobody" in text
    assert "# ── a comment with → arrows ──" in text
    assert text.count("GATE-MEDIAN pending -> ") == 2  # both branches' changelog entries
    assert "version: 1.2.0" in text
    capsys.readouterr()
    assert cli.main(["audit", "contracts"]) == 0
    assert "PG208 C-STEPS::GATE-MEDIAN: 2 heads" in capsys.readouterr().out
    assert cli.main(["sync", "contracts"]) == 0
    assert text_of(merged) == text


def test_the_next_record_joins_the_heads(
    merged: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["sync", "contracts"])
    merged.run().assert_outcomes(passed=1)
    assert "verdict: pass" in text_of(merged)
    assert len(merged.records) == 3
    capsys.readouterr()
    assert cli.main(["audit", "contracts"]) == 0
    assert "PG208" not in capsys.readouterr().out
    merged.run().assert_outcomes(passed=1)
    assert len(merged.records) == 3


def test_a_conflict_in_what_people_wrote_is_refused_at_its_line(
    merged: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = merged.contracts / "claims.yaml"
    text = text_of(merged).replace(
        "    note: kept\n",
        "<<<<<<< HEAD\n    note: ours\n=======\n    note: theirs\n>>>>>>> other\n",
    )
    path.write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["sync", "contracts"]) == 1
    line = text[: text.index("<<<<<<< HEAD\n    note")].count("\n") + 1
    assert f"contracts/claims.yaml:{line}: the conflict is not only in" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n<<<<<<< x\nb: 1\n", "c.yaml:2: a conflict that has no end"),
        ("a: 1\n=======\nb: 1\n", "c.yaml:2: conflict markers that do not match"),
        ("<<<<<<< x\na: [\n=======\na: 1\n>>>>>>> y\n", "c.yaml:1: the conflict is not only"),
    ],
)
def test_markers_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(WriteBackRefusedError, match=message):
        resolved(text, "c.yaml")


def test_three_way_markers_lose_their_middle() -> None:
    sides = ["verdict: pass", "verdict: pending", "verdict: fail"]
    marks = ["<<<<<<< a", "||||||| base", "=======", ">>>>>>> b"]
    lines = [
        marks[0],
        f"  {sides[0]}",
        marks[1],
        f"  {sides[1]}",
        marks[2],
        f"  {sides[2]}",
        marks[3],
    ]
    text = "gates:\n- id: G\n" + "\n".join(lines) + "\n"
    assert resolved(text, "c.yaml") == "gates:\n- id: G\n  verdict: pass\n"


def test_what_agrees_is_left_alone_and_check_writes_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.root)
    project.steps("steps.jsonl", wall_ms=QUICK)
    path: Path = project.contract(RECORDED)
    before = path.read_bytes()
    project.run().assert_outcomes(passed=1)
    after = path.read_bytes()
    assert cli.main(["sync", "--check", "contracts"]) == 0
    path.write_bytes(before)
    capsys.readouterr()
    assert cli.main(["sync", "--check", "contracts"]) == 1
    assert "+    verdict: pass" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert cli.main(["sync", "contracts"]) == 0
    assert path.read_bytes() == after

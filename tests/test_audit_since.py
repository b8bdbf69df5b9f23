"""What only an older state can show: git, or a checkpoint of heads."""

from __future__ import annotations

import json

import pytest
from audited import Audit, edit, evidence_folders, git, keep, newest, oldest
from project import Project

from pytest_gates import cli
from pytest_gates.canonical import canonical


@pytest.fixture
def committed(judged: Project) -> Project:
    git(judged, "init", "--quiet")
    (judged.root / ".gitignore").write_text("/.pytest_gates/\n__pycache__/\n")
    git(judged, "add", ".")
    git(judged, "commit", "--quiet", "-m", "judged")
    return judged


def test_nothing_changed_since_is_clean(committed: Project, audit: Audit) -> None:
    assert audit("--since", "HEAD") == []


def test_newest_record_deleted_with_all_that_cites_it(committed: Project, audit: Audit) -> None:
    """A forgery that is consistent with itself: the history ends before the newest record."""
    newest(committed).unlink()
    (committed.contracts / "claims.yaml").write_text(
        git(committed, "show", "HEAD:contracts/claims.yaml").split("    verdict:")[0]
        + "    verdict: pending\n"
    )
    assert "PG401" not in audit()
    assert "PG401" in audit("--since", "HEAD")


def test_newest_record_deleted_against_a_checkpoint(judged: Project, audit: Audit) -> None:
    assert audit("--write-checkpoint", "heads.json") == []
    assert audit("--checkpoint", "heads.json") == []
    newest(judged).unlink()
    assert "PG401" in audit("--checkpoint", "heads.json")


def test_a_record_of_the_older_state_modified(committed: Project, audit: Audit) -> None:
    path = oldest(committed)
    path.write_bytes(path.read_bytes() + b" ")
    assert "PG402" in audit("--since", "HEAD")


def test_evidence_of_the_older_state_deleted(committed: Project, audit: Audit) -> None:
    (evidence_folders(committed)[0] / "telemetry-0.jsonl").unlink()
    assert "PG403" in audit("--since", "HEAD")


def test_history_rewritten_on_a_branch(committed: Project, audit: Audit) -> None:
    git(committed, "tag", "before")
    git(committed, "commit", "--quiet", "--amend", "-m", "another story")
    assert audit("--since", "before") == ["PG404"]


def test_clock_set_back_behind_the_commit_of_the_parent(
    committed: Project, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new record claims a time after its parent's, but before that one was committed."""
    record = json.loads(newest(committed).read_bytes())
    keep(committed, canonical(record | {"parents": [newest(committed).stem], "attempts": 7}))
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2040-01-01T00:00:00Z")
    git(committed, "commit", "--quiet", "--amend", "--no-edit")
    assert "PG405" in audit("--since", "HEAD")


@pytest.mark.parametrize("waived", [False, True])
def test_loosened_since_is_found_unless_it_is_waived(
    committed: Project, audit: Audit, waived: bool
) -> None:
    edit(committed, "below: 100", "below: 10000")
    if waived:
        waiver = "waiver: {reason: slow disk, owner: ops, until: 2999-01-01}"
        edit(committed, "note: kept", f"note: kept\n    {waiver}")
    assert ("PG406" in audit("--since", "HEAD")) is not waived


def test_an_unknown_revision_is_one_clear_line(
    committed: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(committed.root)
    assert cli.main(["audit", "contracts", "--since", "nowhere"]) == 1
    assert "nowhere: no such revision" in capsys.readouterr().err

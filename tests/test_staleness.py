"""SUSPECT: what a verdict depends on changed since its record, on the GPU it is about."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import Project
from test_ledger import HASH, record
from test_plugin import PROBE

from pytest_gates import cli, revision
from pytest_gates.ledger import Ledger, RecordHost
from pytest_gates.staleness import causes, newest_by_gpu
from pytest_gates.timeline import Entry, entry_of


def entry(**changes: Any) -> Entry:
    """A record's entry; `torch`, `driver` and `declared` are shortcuts."""
    host = {"gpu": "NVIDIA H200", "driver": "570", "torch": "2.11", "declared": False}
    host |= {key: changes.pop(key) for key in list(changes) if key in host}
    made = record(**{"code": "a" * 40} | changes)
    fields = vars(made) | {"host": RecordHost(**host)}  # type: ignore[typeddict-item]
    return entry_of(made.sha + host["gpu"], fields)


def asked(
    old: Entry, *others: Entry, gate: str | None = HASH,
    commits: Callable[[str, str], tuple[str, ...] | None] = lambda old, new: None,
) -> tuple[str, ...]:  # fmt: skip
    return causes(old, gate, newest_by_gpu([old, *others]), commits)


OLD = entry()
LATER = "2026-02-01T00:00:00Z"


def test_nothing_changed_is_not_suspect() -> None:
    assert asked(OLD, entry(time=LATER)) == ()


@pytest.mark.parametrize(
    ("later", "cause"),
    [
        ({"torch": "2.13"}, "torch: 2.11 -> 2.13"),
        ({"driver": "580"}, "driver: 570 -> 580"),
        ({"evaluator": "2"}, "evaluator: 1 -> 2"),
        ({"code": "b" * 40}, "code: aaaaaaaaaaaa -> bbbbbbbbbbbb"),
        ({"code": "a" * 40 + "+"}, "code: aaaaaaaaaaaa -> aaaaaaaaaaaa+"),
    ],
)
def test_each_cause_is_named(later: dict[str, Any], cause: str) -> None:
    assert asked(OLD, entry(time=LATER, subject="OTHER", **later)) == (cause,)


def test_another_gpu_and_declared_hosts_say_nothing() -> None:
    assert asked(OLD, entry(time=LATER, torch="2.13", gpu="NVIDIA GeForce RTX 4090")) == ()
    assert asked(OLD, entry(time=LATER, torch="2.13", declared=True)) == ()


def test_an_older_record_says_nothing() -> None:
    assert asked(OLD, entry(time="2025-01-01T00:00:00Z", torch="1.0")) == ()


def test_a_changed_gate_is_a_cause_without_any_other_record() -> None:
    assert asked(OLD, gate="cd" * 32) == (f"gate: changed since record {OLD.sha[:12]}",)


def test_only_commits_to_the_program_count_where_they_are_known() -> None:
    later = entry(time=LATER, code="b" * 40)
    assert asked(OLD, later, commits=lambda old, new: ()) == ()
    told = asked(OLD, later, commits=lambda old, new: ("abc1234 Faster steps",))
    assert told == ("code: 1 commits: abc1234 Faster steps",)
    many = tuple(f"abc{number} Step {number}" for number in range(99))
    (told_of_many,) = asked(OLD, later, commits=lambda old, new: many)
    assert told_of_many == ("code: 99 commits: abc0 Step 0; abc1 Step 1; abc2 Step 2; and 96 more")


def test_commits_are_asked_of_git() -> None:
    here = Path(revision.__file__).parent
    head = revision.code_revision()
    commit = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode != 0:
        pytest.skip("not a checkout")
    now = commit.stdout.strip()
    assert revision.commits_between(now, now) == ()
    assert revision.commits_between("0" * 40, now) is None
    assert revision.commits_between(f"{now}+", now) is None
    assert head.startswith(now)


def git(folder: Path, *arguments: str) -> str:
    named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *named, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of a program laid out as ours is; the package's folder."""
    here = tmp_path / "package"
    for file in ("package/__init__.py", "model/step.py", "contracts/a.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("a\n", encoding="utf-8")
    (here / "model").symlink_to("../model")
    (tmp_path / ".gitignore").write_text("/environment/\n", encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "All of it")
    return here


def test_what_a_session_writes_is_no_edit_of_the_program(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    git(checkout, "tag", "-am", "A release", "v1.0")
    assert revision.commit_of(checkout) == head
    (checkout.parent / "contracts" / "a.yaml").write_text("verdict: pass\n", encoding="utf-8")
    (checkout.parent / "evidence").mkdir()
    (checkout.parent / "evidence" / "record.json").write_text("{}", encoding="utf-8")
    assert revision.commit_of(checkout) == head


@pytest.mark.parametrize("file", ["package/__init__.py", "model/step.py", "model/another.py"])
def test_an_edit_of_the_program_is_told(checkout: Path, file: str) -> None:
    (checkout.parent / file).write_text("b\n", encoding="utf-8")
    assert revision.commit_of(checkout) == git(checkout, "rev-parse", "HEAD") + "+"


def test_a_package_installed_below_somebodys_checkout_is_not_of_its_commit(checkout: Path) -> None:
    installed = checkout.parent / "environment" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("a\n", encoding="utf-8")
    assert revision.commit_of(installed) is None


@pytest.fixture
def outdated(project: Project) -> Project:
    """A gate whose record is older than another one's of a newer torch."""
    project.contract(PROBE)
    project.run().assert_outcomes(passed=1, skipped=1)
    ledger = Ledger(project.root / "evidence")
    (made,) = ledger.records().values()
    host = RecordHost(gpu=None, driver=None, torch="99.0", declared=False)
    ledger.append(
        record(subject="OTHER", host=host, code=made.code, evaluator=made.evaluator,
               time="2999-01-01T00:00:00Z", evidence=made.evidence)
    )  # fmt: skip
    return project


def test_a_replayed_verdict_is_shown_as_suspect_or_is_red(outdated: Project) -> None:
    shown = outdated.run("--gates-replay")
    assert shown.ret == 0
    shown.stdout.fnmatch_lines(["SUSPECT: GATE-ENV: torch: * -> 99.0"])
    red = outdated.run("--gates-replay", "-o", "gates_stale=red")
    assert red.ret == 1
    red.stdout.fnmatch_lines(["*SUSPECT: torch: * -> 99.0 (gates_stale = red)*"])
    outdated.run("-o", "gates_stale=red").assert_outcomes(passed=1, skipped=1)


def test_a_policy_that_is_none_is_refused(outdated: Project) -> None:
    result = outdated.process("-o", "gates_stale=maybe")
    assert "gates_stale = 'maybe' in pytest's configuration" in result.stderr.str()


def test_the_audit_notes_it(
    outdated: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(outdated.root)
    capsys.readouterr()
    assert cli.main(["audit", "contracts"]) == 0
    assert "PG211 C-ENV::GATE-ENV" in capsys.readouterr().out


def test_the_audit_notes_a_superseded_head(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.contract(PROBE)
    monkeypatch.setattr("pytest_gates.recording.EVALUATOR", "0")
    project.run().assert_outcomes(passed=1, skipped=1)
    monkeypatch.chdir(project.root)
    capsys.readouterr()
    assert cli.main(["audit", "contracts"]) == 0
    assert "PG209 C-ENV::GATE-ENV: record" in capsys.readouterr().out

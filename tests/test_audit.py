"""One tampering a test, each found and named by its own code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from project import RECORDED, Project
from sealed import seal_run

from pytest_gates import cli
from pytest_gates.audit import foundation
from pytest_gates.audit.codes import CODES, explain, markdown_table
from pytest_gates.canonical import canonical
from pytest_gates.contract.load import load_contract
from pytest_gates.contract.runs import Caps
from pytest_gates.evidence_store import read_evidence
from pytest_gates.ledger import Ledger
from pytest_gates.results import Status

QUICK = [40.0 + (index % 7) for index in range(30)]
SLOW = [200.0 + (index % 7) for index in range(30)]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def judged(project: Project) -> Project:
    """A contract that was judged twice: fail, then pass; the audit is clean."""
    project.steps("steps.jsonl", wall_ms=SLOW)
    project.contract(RECORDED)
    project.run().assert_outcomes(failed=1)
    project.steps("steps.jsonl", wall_ms=QUICK)
    project.run().assert_outcomes(passed=1)
    return project


@pytest.fixture
def audit(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """`audit(*options)`: codes that `pytest-gates audit contracts` finds; notes are left out."""

    def run(*options: str) -> list[str]:
        monkeypatch.chdir(project.root)
        capsys.readouterr()
        status = cli.main(["audit", "contracts", "--json", *options])
        told = json.loads(capsys.readouterr().out)
        assert status == (1 if told["findings"] else 0)
        return [one["code"] for one in told["findings"]]

    return run


def text_of(project: Project) -> str:
    return (project.contracts / "claims.yaml").read_text(encoding="utf-8")


def edit(project: Project, before: str, after: str) -> None:
    text = text_of(project)
    assert before in text
    (project.contracts / "claims.yaml").write_text(text.replace(before, after), encoding="utf-8")


def newest(project: Project) -> Path:
    cited = re.search(r'- record: "([0-9a-f]{64})"', text_of(project))
    assert cited is not None
    return next(path for path in project.records if path.stem == cited[1])


def oldest(project: Project) -> Path:
    return next(path for path in project.records if path != newest(project))


def forge(project: Project, record: Path, **changes: Any) -> None:
    """A record rewritten under its new true name, and the contract made to agree with it."""
    data = canonical(json.loads(record.read_bytes()) | changes)
    record.unlink()
    keep(project, data)
    contract = str(project.contracts / "claims.yaml")
    assert cli.main(["sync", "--root", str(project.root), contract]) == 0


def keep(project: Project, data: bytes) -> None:
    """A file of the ledger under its true name."""
    sha = hashlib.sha256(data).hexdigest()
    path = project.root / "evidence" / "records" / sha[:2] / f"{sha}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def evidence_folders(project: Project) -> list[Path]:
    return sorted((project.root / "evidence" / "runs").iterdir())


def test_what_nobody_touched_is_clean_and_attempts_are_shown(
    judged: Project, audit: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit() == []
    assert cli.main(["audit", "contracts"]) == 0
    told = capsys.readouterr().out
    assert "note: contracts/claims.yaml:12: PG210 C-STEPS::GATE-MEDIAN: record" in told
    assert "passed at attempt 2" in told
    assert "1 contracts, 1 gates, 2 records: 0 findings, 1 notes" in told


def test_verdict_typed(project: Project, audit: Callable[..., list[str]]) -> None:
    project.steps("steps.jsonl", wall_ms=QUICK)
    project.contract(RECORDED.replace("verdict: pending", "verdict: pass"))
    assert audit() == ["PG101"]


def test_verdict_typed_over_a_recorded_one(
    judged: Project, audit: Callable[..., list[str]]
) -> None:
    edit(judged, "verdict: pass ", "verdict: fail ")
    assert audit() == ["PG105"]


def test_basis_edited(judged: Project, audit: Callable[..., list[str]]) -> None:
    edit(judged, "median 43 ms", "median 23 ms")
    assert audit() == ["PG104"]


def test_many_notes_of_one_code_are_counted(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.steps("steps.jsonl", wall_ms=QUICK)
    gates = [
        f"""
              - id: GATE-{index}
                run: log
                checks: [{{kind: budget, metric: wall_ms, steps: [0, 29], below: 100}}]
                verdict: pending"""
        for index in range(5)
    ]
    project.contract(RECORDED[: RECORDED.index("      - id:")] + "".join(gates).lstrip("\n"))
    project.run().assert_outcomes(passed=5)
    monkeypatch.setattr("pytest_gates.audit.project.EVALUATOR", "newer")
    monkeypatch.chdir(project.root)
    capsys.readouterr()
    assert cli.main(["audit", "contracts"]) == 0
    folded = [line for line in capsys.readouterr().out.splitlines() if "PG209" in line]
    assert len(folded) == 2
    assert "PG209 and 4 more" in folded[1]
    assert cli.main(["audit", "contracts", "--notes"]) == 0
    assert capsys.readouterr().out.count("PG209") == 5


def test_basis_of_another_gate(judged: Project, audit: Callable[..., list[str]]) -> None:
    edit(judged, "id: GATE-MEDIAN", "id: GATE-BORROWED")
    assert audit() == ["PG103"]


def test_evidence_byte_flipped(judged: Project, audit: Callable[..., list[str]]) -> None:
    for folder in evidence_folders(judged):
        data = bytearray((folder / "telemetry-0.jsonl").read_bytes())
        data[data.index(b"wall_ms") + 10] ^= 1
        (folder / "telemetry-0.jsonl").write_bytes(bytes(data))
    assert audit() == ["PG301", "PG301"]


def test_evidence_of_an_id_that_is_gone_is_held_by_a_session_too(judged: Project) -> None:
    text = text_of(judged)
    kept = text[: text.index("    verdict: pass")] + "    verdict: pending\n"
    path = judged.contracts / "claims.yaml"
    path.write_text(kept.replace("id: GATE-MEDIAN", "id: GATE-NEWER"), encoding="utf-8")
    judged.run("--gates-record", "never").assert_outcomes(passed=1)
    telemetry = evidence_folders(judged)[0] / "telemetry-0.jsonl"
    telemetry.write_bytes(telemetry.read_bytes() + b"\n")
    done = judged.run("--gates-record", "never")
    done.assert_outcomes(failed=1)
    assert telemetry.parent.name in done.stdout.str()
    assert "PG301" in done.stdout.str()


def test_evidence_deleted(judged: Project, audit: Callable[..., list[str]]) -> None:
    (evidence_folders(judged)[0] / "telemetry-0.jsonl").unlink()
    assert audit() == ["PG302"]


def test_evidence_behind_a_link(judged: Project, audit: Callable[..., list[str]]) -> None:
    folder = evidence_folders(judged)[0]
    folder.rename(judged.root / "elsewhere")
    folder.symlink_to(judged.root / "elsewhere")
    assert audit() == ["PG304"]


def test_evidence_swapped_between_gates(judged: Project, audit: Callable[..., list[str]]) -> None:
    """The failing record is made to cite the passing one's evidence, consistently."""
    good, bad = (json.loads(path.read_bytes()) for path in (newest(judged), oldest(judged)))
    reference = good["evidence"][0]
    swapped = [{**bad["evidence"][0], "id": reference["id"]}]
    forge(judged, newest(judged), evidence=swapped)
    assert audit() == ["PG303"]


def test_evidence_folders_swapped(judged: Project, audit: Callable[..., list[str]]) -> None:
    one, other = evidence_folders(judged)[:2]
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    assert set(audit()) == {"PG303"}


def test_evidence_of_another_run(judged: Project, audit: Callable[..., list[str]]) -> None:
    folder = seal_run(judged.root / "evidence" / "runs")
    location = folder.relative_to(judged.root).as_posix()
    evidence = read_evidence(judged.root, location)
    cited = {"role": "log", "repetition": 0, "id": evidence.id, "location": location}
    forge(judged, newest(judged), evidence=[cited])
    assert audit() == ["PG303"]


def test_sabotaged_evidence_judges_no_gate(
    judged: Project, audit: Callable[..., list[str]]
) -> None:
    fault = {"fault": "slow_step", "ms": 600}
    folder = seal_run(judged.root / "evidence" / "runs", fault=fault)
    location = folder.relative_to(judged.root).as_posix()
    evidence = read_evidence(judged.root, location)
    cited = {"role": "log", "repetition": 0, "id": evidence.id, "location": location}
    forge(judged, newest(judged), evidence=[cited])
    assert audit() == ["PG305"]


def test_record_edited(judged: Project, audit: Callable[..., list[str]]) -> None:
    path = newest(judged)
    path.write_bytes(path.read_bytes().replace(b'"verdict":"pass"', b'"verdict":"fail"'))
    assert sorted(audit()) == ["PG102", "PG201"]


def test_record_renamed(judged: Project, audit: Callable[..., list[str]]) -> None:
    path = oldest(judged)
    path.rename(path.with_name("ab" * 32 + ".json"))
    assert sorted(audit()) == ["PG202", "PG204"]


def test_newest_record_renamed(judged: Project, audit: Callable[..., list[str]]) -> None:
    path = newest(judged)
    path.rename(path.with_name("ab" * 32 + ".json"))
    assert sorted(audit()) == ["PG102", "PG202"]


def test_record_that_is_none(judged: Project, audit: Callable[..., list[str]]) -> None:
    path = newest(judged)
    keep(judged, json.dumps(json.loads(path.read_bytes()), indent=1).encode())
    assert audit() == ["PG203"]


def test_verdict_forged_in_the_record(judged: Project, audit: Callable[..., list[str]]) -> None:
    forge(judged, newest(judged), verdict="fail")
    assert "verdict: fail " in text_of(judged)
    assert audit() == ["PG205"]


def test_figures_forged_in_the_record(judged: Project, audit: Callable[..., list[str]]) -> None:
    observed = json.loads(newest(judged).read_bytes())["observed"]
    observed[0]["value"] = 23.0
    forge(judged, newest(judged), observed=observed)
    assert audit() == ["PG206"]


def test_ancestor_deleted(judged: Project, audit: Callable[..., list[str]]) -> None:
    oldest(judged).unlink()
    assert audit() == ["PG204"]


def test_clock_set_back(judged: Project, audit: Callable[..., list[str]]) -> None:
    forge(judged, newest(judged), time="2020-01-01T00:00:00Z")
    assert audit() == ["PG207"]


def test_contract_loosened_after_judgement(
    judged: Project, audit: Callable[..., list[str]]
) -> None:
    edit(judged, "below: 100", "below: 10000")
    assert audit() == ["PG107"]


def test_contract_that_lags_behind_its_ledger(
    judged: Project, audit: Callable[..., list[str]]
) -> None:
    """The contract of before the failure was fixed, put back beside the ledger of now."""
    now = text_of(judged)
    judged.steps("steps.jsonl", wall_ms=SLOW)
    judged.run().assert_outcomes(failed=1)
    (judged.contracts / "claims.yaml").write_text(now, encoding="utf-8")
    assert audit() == ["PG106"]


def test_a_contract_that_cannot_be_loaded(judged: Project, audit: Callable[..., list[str]]) -> None:
    edit(judged, "checks:", "chekcs:")
    assert "PG108" in audit()


# --- against an older state --------------------------------------------------------------------


def git(project: Project, *arguments: str) -> str:
    environment = os.environ | {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "a"), ("EMAIL", "a@example.org"))
    }
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    done = subprocess.run(
        command, cwd=project.root, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


@pytest.fixture
def committed(judged: Project) -> Project:
    git(judged, "init", "--quiet")
    (judged.root / ".gitignore").write_text("/.pytest_gates/\n__pycache__/\n")
    git(judged, "add", ".")
    git(judged, "commit", "--quiet", "-m", "judged")
    return judged


def test_nothing_changed_since_is_clean(
    committed: Project, audit: Callable[..., list[str]]
) -> None:
    assert audit("--since", "HEAD") == []


def test_newest_record_deleted_with_all_that_cites_it(
    committed: Project, audit: Callable[..., list[str]]
) -> None:
    """A forgery that is consistent with itself: the history ends before the newest record."""
    newest(committed).unlink()
    (committed.contracts / "claims.yaml").write_text(
        git(committed, "show", "HEAD:contracts/claims.yaml").split("    verdict:")[0]
        + "    verdict: pending\n"
    )
    assert "PG401" not in audit()
    assert "PG401" in audit("--since", "HEAD")


def test_newest_record_deleted_against_a_checkpoint(
    judged: Project, audit: Callable[..., list[str]]
) -> None:
    assert audit("--write-checkpoint", "heads.json") == []
    assert audit("--checkpoint", "heads.json") == []
    newest(judged).unlink()
    assert "PG401" in audit("--checkpoint", "heads.json")


def test_a_record_of_the_older_state_modified(
    committed: Project, audit: Callable[..., list[str]]
) -> None:
    path = oldest(committed)
    path.write_bytes(path.read_bytes() + b" ")
    assert "PG402" in audit("--since", "HEAD")


def test_evidence_of_the_older_state_deleted(
    committed: Project, audit: Callable[..., list[str]]
) -> None:
    (evidence_folders(committed)[0] / "telemetry-0.jsonl").unlink()
    assert "PG403" in audit("--since", "HEAD")


def test_history_rewritten_on_a_branch(committed: Project, audit: Callable[..., list[str]]) -> None:
    git(committed, "tag", "before")
    git(committed, "commit", "--quiet", "--amend", "-m", "another story")
    assert audit("--since", "before") == ["PG404"]


def test_clock_set_back_behind_the_commit_of_the_parent(
    committed: Project, audit: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new record claims a time after its parent's, but before that one was committed."""
    record = json.loads(newest(committed).read_bytes())
    keep(committed, canonical(record | {"parents": [newest(committed).stem], "attempts": 7}))
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2040-01-01T00:00:00Z")
    git(committed, "commit", "--quiet", "--amend", "--no-edit")
    assert "PG405" in audit("--since", "HEAD")


@pytest.mark.parametrize("waived", [False, True])
def test_loosened_since_is_found_unless_it_is_waived(
    committed: Project, audit: Callable[..., list[str]], waived: bool
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


# --- the table ---------------------------------------------------------------------------------


def test_every_code_is_in_the_documentation_as_it_is_in_the_program() -> None:
    assert markdown_table() in (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")


def test_every_code_is_tried_by_a_test() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")
    )
    assert [code for code in CODES if code not in sources] == []


def test_a_code_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "--explain", "PG204"]) == 0
    assert "PG204 ancestor deleted (finding)" in capsys.readouterr().out
    assert cli.main(["audit", "--explain", "PG000"]) == 1
    assert "red: TAMPERED" in explain("PG301")


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (lambda project: edit(project, "median 43 ms", "median 2 ms"), Status.TAMPERED, "PG104"),
        (lambda project: oldest(project).unlink(), Status.TAMPERED, "PG204"),
        (lambda project: edit(project, "verdict: pass ", "verdict: fail "), Status.UNFOUNDED,
         "PG105"),
        (lambda project: edit(project, "below: 100", "below: 999"), None, ""),
    ],
)  # fmt: skip
def test_a_gate_in_a_session_is_asked_by_the_same_functions(
    judged: Project, spoil: Callable[[Project], None], status: Status | None, code: str
) -> None:
    spoil(judged)
    contract = load_contract(judged.contracts / "claims.yaml", "contracts/claims.yaml", Caps())
    found = foundation(
        contract,
        contract.gates[0],
        Ledger(judged.root / "evidence"),
        lambda location: read_evidence(judged.root, location),
    )
    assert (found and found[0]) == status
    assert code in (found[1] if found else "")


def test_many_records_are_audited_by_several_processes_alike(
    judged: Project, audit: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_gates.audit import shards

    def both() -> Sequence[str]:
        found = []
        for alone, at_once in ((0, 32), (500, 32), (500, 1)):
            monkeypatch.setattr(shards, "ALONE", alone)
            monkeypatch.setattr(shards, "AT_ONCE", at_once)
            found.append(audit())
        assert found[0] == found[1] == found[2]
        return found[0]

    assert both() == []
    (evidence_folders(judged)[0] / "telemetry-0.jsonl").unlink()
    assert both() == ["PG302"]

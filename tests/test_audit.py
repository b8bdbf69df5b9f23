"""One tampering a test, each found and named by its own code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from audited import (
    QUICK,
    SLOW,
    Audit,
    edit,
    evidence_folders,
    keep,
    newest,
    oldest,
    text_of,
)
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

ROOT = Path(__file__).parents[1]


def forge(project: Project, record: Path, **changes: Any) -> None:
    """A record rewritten under its new true name, and the contract made to agree with it."""
    data = canonical(json.loads(record.read_bytes()) | changes)
    record.unlink()
    keep(project, data)
    contract = str(project.contracts / "claims.yaml")
    assert cli.main(["sync", "--root", str(project.root), contract]) == 0


def test_what_nobody_touched_is_clean_and_attempts_are_shown(
    judged: Project, audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit() == []
    assert cli.main(["audit", "contracts"]) == 0
    told = capsys.readouterr().out
    assert "note: contracts/claims.yaml:12: PG210 C-STEPS::GATE-MEDIAN: record" in told
    assert "passed at attempt 2" in told
    assert "1 contracts, 1 gates, 2 records: 0 findings, 1 notes" in told


def test_verdict_typed(project: Project, audit: Audit) -> None:
    project.steps("steps.jsonl", wall_ms=QUICK)
    project.contract(RECORDED.replace("verdict: pending", "verdict: pass"))
    assert audit() == ["PG101"]


def test_verdict_typed_over_a_recorded_one(judged: Project, audit: Audit) -> None:
    edit(judged, "verdict: pass ", "verdict: fail ")
    assert audit() == ["PG105"]


def test_basis_edited(judged: Project, audit: Audit) -> None:
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


def test_basis_of_another_gate(judged: Project, audit: Audit) -> None:
    edit(judged, "id: GATE-MEDIAN", "id: GATE-BORROWED")
    assert audit() == ["PG103"]


def test_evidence_byte_flipped(judged: Project, audit: Audit) -> None:
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


def test_evidence_deleted(judged: Project, audit: Audit) -> None:
    (evidence_folders(judged)[0] / "telemetry-0.jsonl").unlink()
    assert audit() == ["PG302"]


def test_evidence_behind_a_link(judged: Project, audit: Audit) -> None:
    folder = evidence_folders(judged)[0]
    folder.rename(judged.root / "elsewhere")
    folder.symlink_to(judged.root / "elsewhere")
    assert audit() == ["PG304"]


def test_evidence_swapped_between_gates(judged: Project, audit: Audit) -> None:
    """The failing record is made to cite the passing one's evidence, consistently."""
    good, bad = (json.loads(path.read_bytes()) for path in (newest(judged), oldest(judged)))
    reference = good["evidence"][0]
    swapped = [{**bad["evidence"][0], "id": reference["id"]}]
    forge(judged, newest(judged), evidence=swapped)
    assert audit() == ["PG303"]


def test_evidence_folders_swapped(judged: Project, audit: Audit) -> None:
    one, other = evidence_folders(judged)[:2]
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    assert set(audit()) == {"PG303"}


def test_evidence_of_another_run(judged: Project, audit: Audit) -> None:
    folder = seal_run(judged.root / "evidence" / "runs")
    location = folder.relative_to(judged.root).as_posix()
    evidence = read_evidence(judged.root, location)
    cited = {"role": "log", "repetition": 0, "id": evidence.id, "location": location}
    forge(judged, newest(judged), evidence=[cited])
    assert audit() == ["PG303"]


def test_sabotaged_evidence_judges_no_gate(judged: Project, audit: Audit) -> None:
    fault = {"fault": "slow_step", "ms": 600}
    folder = seal_run(judged.root / "evidence" / "runs", fault=fault)
    location = folder.relative_to(judged.root).as_posix()
    evidence = read_evidence(judged.root, location)
    cited = {"role": "log", "repetition": 0, "id": evidence.id, "location": location}
    forge(judged, newest(judged), evidence=[cited])
    assert audit() == ["PG305"]


def test_record_edited(judged: Project, audit: Audit) -> None:
    path = newest(judged)
    path.write_bytes(path.read_bytes().replace(b'"verdict":"pass"', b'"verdict":"fail"'))
    assert sorted(audit()) == ["PG102", "PG201"]


def test_record_renamed(judged: Project, audit: Audit) -> None:
    path = oldest(judged)
    path.rename(path.with_name("ab" * 32 + ".json"))
    assert sorted(audit()) == ["PG202", "PG204"]


def test_newest_record_renamed(judged: Project, audit: Audit) -> None:
    path = newest(judged)
    path.rename(path.with_name("ab" * 32 + ".json"))
    assert sorted(audit()) == ["PG102", "PG202"]


def test_record_that_is_none(judged: Project, audit: Audit) -> None:
    path = newest(judged)
    keep(judged, json.dumps(json.loads(path.read_bytes()), indent=1).encode())
    assert audit() == ["PG203"]


def test_verdict_forged_in_the_record(judged: Project, audit: Audit) -> None:
    forge(judged, newest(judged), verdict="fail")
    assert "verdict: fail " in text_of(judged)
    assert audit() == ["PG205"]


def test_figures_forged_in_the_record(judged: Project, audit: Audit) -> None:
    observed = json.loads(newest(judged).read_bytes())["observed"]
    observed[0]["value"] = 23.0
    forge(judged, newest(judged), observed=observed)
    assert audit() == ["PG206"]


def test_ancestor_deleted(judged: Project, audit: Audit) -> None:
    oldest(judged).unlink()
    assert audit() == ["PG204"]


def test_clock_set_back(judged: Project, audit: Audit) -> None:
    forge(judged, newest(judged), time="2020-01-01T00:00:00Z")
    assert audit() == ["PG207"]


def test_contract_loosened_after_judgement(judged: Project, audit: Audit) -> None:
    edit(judged, "below: 100", "below: 10000")
    assert audit() == ["PG107"]


def test_contract_that_lags_behind_its_ledger(judged: Project, audit: Audit) -> None:
    """The contract of before the failure was fixed, put back beside the ledger of now."""
    now = text_of(judged)
    judged.steps("steps.jsonl", wall_ms=SLOW)
    judged.run().assert_outcomes(failed=1)
    (judged.contracts / "claims.yaml").write_text(now, encoding="utf-8")
    assert audit() == ["PG106"]


def test_a_contract_that_cannot_be_loaded(judged: Project, audit: Audit) -> None:
    edit(judged, "checks:", "chekcs:")
    assert "PG108" in audit()


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
    judged: Project, audit: Audit, monkeypatch: pytest.MonkeyPatch
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

"""Attacks: carried out on copies, noticed by audit and judge alone, whose code is not in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from project import RECORDED, Project, dedented
from sealed import H200, seal_run, step_lines

import pytest_gates.attacks
from pytest_gates.attacks import carry_out
from pytest_gates.audit.codes import AuditFinding
from pytest_gates.checks.base import Verdict
from pytest_gates.contract.load import load_contract
from pytest_gates.contract.runs import Caps
from pytest_gates.evidence import Gpu, Rank, Witness
from pytest_gates.evidence_store import RUNS, rank_witness, read_evidence
from pytest_gates.model.faults.evidence import ForeignGpu, PlantedMetric
from pytest_gates.model.telemetry import encode_line
from pytest_gates.readers.witness_csv import write_witness
from pytest_gates.settings import Settings
from pytest_gates.verdict import judge

STEPS = {"wall_ms": [84.0 + index * 7 % 30 / 10 for index in range(30)]}
FALSIFIER = """
    falsification_tests:
      - id: FALSIFY-MEDIAN
        binds_to: GATE-MEDIAN
        inject: {inject}
        expect: {expect}
"""
FOUND = [
    ("edited_evidence", "tampered", "PG301"),
    ("stale_evidence", "tampered", "PG301"),
    ("typed_verdict", "unfounded", "PG101"),
    ("deleted_record", "tampered", "PG204"),
    ("loosened_contract", "unfounded", "PG107"),
]


def attacked(project: Project, inject: str, expect: str) -> Path:
    project.steps("steps.jsonl", **STEPS)
    contract = RECORDED + FALSIFIER.replace("{inject}", inject).replace("{expect}", expect)
    return project.contract(contract)


@pytest.mark.parametrize(("fault", "verdict", "code"), FOUND)
def test_what_is_found_is_found_by_the_audit(
    project: Project, fault: str, verdict: str, code: str
) -> None:
    attacked(project, f"{{fault: {fault}}}", f"{{verdict: {verdict}}}")
    result = project.run("--gates-record", "never")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"*FALSIFY-MEDIAN*CAUGHT*{code}*"])
    result.stdout.fnmatch_lines(["*UNARMED: GATE-MEDIAN*"])


@pytest.mark.parametrize("fault", ["deleted_record", "loosened_contract"])
def test_an_audit_that_finds_nothing_lets_the_attack_survive(
    project: Project, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The attack itself decides nothing."""

    class Blind:
        findings: tuple[AuditFinding, ...] = ()

    monkeypatch.setattr(pytest_gates.attacks, "audit", lambda *_: Blind)
    monkeypatch.setattr(pytest_gates.attacks, "foundation", lambda *_: None)
    verdict = next(word for name, word, _ in FOUND if name == fault)
    attacked(project, f"{{fault: {fault}}}", f"{{verdict: {verdict}}}")
    result = project.run("--gates-record", "never")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FALSIFY-MEDIAN*SURVIVED*"])


BUDGET = "{verdict: fail, check: budget}"


def test_a_planted_metric_turns_its_check_red_and_arms_the_gate(project: Project) -> None:
    attacked(project, "{fault: planted_metric, metric: wall_ms, factor: 2.0}", BUDGET)
    result = project.run("--gates-strict")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*FALSIFY-MEDIAN*CAUGHT*", "seen red: 1 of 1 gates"])
    (record,) = project.records
    assert json.loads(record.read_text(encoding="utf-8"))["verdict"] == "pass"


@pytest.mark.parametrize(
    ("inject", "because"),
    [
        ("{fault: planted_metric, metric: wall_ms, factor: 1.1}", "the attack left the gate pass"),
        ("{fault: planted_metric, metric: wall_ms, factor: 2.0, at: [0, 3]}", "gate pass"),
        ("{fault: planted_metric, metric: gpu_ms, factor: 2.0}", "tells nothing of the kind"),
        ("{fault: planted_fact, fact: deterministic, value: true}", "tells nothing of the kind"),
    ],
)
def test_what_turns_nothing_red_survives(project: Project, inject: str, because: str) -> None:
    attacked(project, inject, BUDGET)
    result = project.run("--gates-record", "never")
    result.assert_outcomes(passed=1, failed=1)
    assert because in result.stdout.str()


@pytest.mark.parametrize(
    ("inject", "expect", "said"),
    [
        ("{fault: planted_metric, metric: wall_ms}", BUDGET, "give either value or factor"),
        ("{fault: planted_metric, metric: rel_l2, factor: 2}", BUDGET, "no metric of steps"),
        ("{fault: planted_metric, metric: wall_ms, factor: 2}", "{verdict: tampered}",
         "planted_metric turns a gate fail, never tampered"),
        ("{fault: planted_metric, metric: wall_ms, factor: 2}",
         "{verdict: fail, check: finite}", "the gate has no check `finite`"),
        ("{fault: typed_verdict}", "{verdict: unfounded, check: budget}",
         "found by the audit, not by a check"),
    ],
)  # fmt: skip
def test_planted_evidence_that_cannot_work_is_refused(
    project: Project, inject: str, expect: str, said: str
) -> None:
    attacked(project, inject, expect)
    result = project.run("--collect-only")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert said in result.stdout.str()


def test_planted_evidence_of_shortened_runs_is_refused(project: Project) -> None:
    path = attacked(project, "{fault: typed_verdict}", "{verdict: unfounded}")
    text = path.read_text(encoding="utf-8").replace("expect:", "shorten: {}\n    expect:")
    path.write_text(text, encoding="utf-8")
    result = project.run("--collect-only")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "planted evidence is that of the gate's own runs" in result.stdout.str()


def test_a_gate_that_cannot_run_here_is_attacked_by_its_recorded_evidence(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked(project, "{fault: planted_metric, metric: wall_ms, factor: 2.0}", BUDGET)
    project.run().assert_outcomes(passed=2)
    calls: list[Any] = []
    from pytest_gates.session import GatesSession

    def no_device(self: GatesSession, gate: object) -> str:
        calls.append(gate)
        return "no such device"

    monkeypatch.setattr(GatesSession, "obstacle", no_device)
    result = project.run()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*FALSIFY-MEDIAN*CAUGHT*REPLAYED*"])
    live = project.run("--gates-live")
    assert live.ret == pytest.ExitCode.TESTS_FAILED
    # Red for being replayed: CAUGHT among the failures would be a riddle.
    live.stdout.fnmatch_lines(["REPLAYED contracts/*::FALSIFY-MEDIAN - replayed*"])
    assert calls


TWO_GPUS = """
    contract_id: C-RANKS
    version: 1.0.0
    runs:
      two:
        driver: pretrain
        device: cuda
        model: llama-1m
        data: {corpus: python-stdlib}
        seq_len: 64
        batch_size: 4
        steps: 40
        launch: {processes: 2}
    gates:
      - id: GATE-SHARE
        rule: Little time goes into communication.
        run: two
        checks:
          - kind: budget
            metric: comm_share_pct
            steps: [0, 39]
            below: {NVIDIA H200: 50}
            ranks: all
        verdict: pending
"""


@pytest.mark.parametrize(
    ("fault", "verdict", "because"),
    [
        (PlantedMetric(fault="planted_metric", metric="comm_share_pct", value=90.0), "fail",
         "rank 0: median 90 % of comm_share_pct"),
        (ForeignGpu(fault="foreign_gpu"), "blocked", "no limit for an imaginary GPU"),
    ],
)  # fmt: skip
def test_planted_evidence_of_ranks_has_their_gpus(
    tmp_path: Path, fault: Any, verdict: str, because: str
) -> None:
    (tmp_path / "ranks.yaml").write_text(dedented(TWO_GPUS), encoding="utf-8")
    contract = load_contract(tmp_path / "ranks.yaml", "ranks.yaml", Caps())
    (gate,) = contract.gates
    folder = sealed_ranks(tmp_path / "evidence" / RUNS, gate.runs["two"])
    evidence = {"two": (read_evidence(tmp_path, folder.relative_to(tmp_path).as_posix()),)}
    assert judge(gate, evidence).verdict is Verdict.PASS
    noticed = carry_out(fault, contract, gate, evidence, Settings(root=tmp_path, session="s"))
    assert noticed.verdict == verdict
    assert because in noticed.reason


def sealed_ranks(parent: Path, run: Any) -> Path:
    """Two ranks, a GPU each, a tenth of whose steps goes into communication."""
    files, ranks = {}, []
    scratch = parent.parent / "of-ranks"
    scratch.mkdir(parents=True)
    for rank in range(2):
        telemetry = scratch / f"telemetry-{rank}.jsonl"
        lines = [
            *step_lines(40, comm_share_pct=lambda step: 10.0 + step * 7 % 30 / 10),
            {"kind": "event", "event": "run_finished", "step": None, "at_ms": 9000.0},
        ]
        telemetry.write_text("".join(map(encode_line, lines)), encoding="utf-8")
        witness = scratch / ("witness.csv" if rank == 0 else rank_witness(rank))
        write_witness(witness, Witness(samples=()))
        files |= {telemetry.name: telemetry, witness.name: witness}
        ranks.append(Rank(100 + rank, Gpu("NVIDIA H200", f"GPU-{rank}", 143_771), Witness(())))
    return seal_run(parent, run=run, host=H200, files=files, ranks=ranks)

"""Checks over ranks: each rank held to a check, ranks compared, and residency on each one's GPU."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gates.checks.base import Verdict
from pytest_gates.checks.equal_ranks import EqualRanks
from pytest_gates.checks.residency import Residency
from pytest_gates.checks.status import ExitStatus
from pytest_gates.contract.models import Gate
from pytest_gates.errors import Place
from pytest_gates.evidence import (
    Event,
    Evidence,
    Gpu,
    Rank,
    Sample,
    Telemetry,
    Witness,
    rank_status,
)
from pytest_gates.verdict import judge
from tests.builders import evidence, pretrain_run, steps_series

FINISHED = (Event("run_finished", None, {"at_ms": 9000.0}),)
MIB = 2**20


def ranks_of(*telemetry: Telemetry, parallel: str = "ddp", status: str = "COMPLETED",
             ranks: tuple[Rank, ...] = ()) -> Evidence:  # fmt: skip
    run = pretrain_run(
        device="cuda", steps=3, batch_size=16 * len(telemetry), parallel=parallel,
        launch={"processes": len(telemetry)}, optimizer={"warmup_steps": 1},
    )  # fmt: skip
    return evidence(run, status=status, telemetry=telemetry, ranks=ranks)


def said(losses: list[float], events: tuple[Event, ...] = FINISHED, **facts: Any) -> Telemetry:
    return Telemetry(steps=steps_series(train_loss=losses), events=events, facts=facts)


def gate(check: Any, found: Evidence) -> Gate:
    return Gate(
        id="GATE-1", place=Place("c.yaml", 1, 1), rule="", run="several", checks=(check,),
        runs={"several": found.run}, repeats={"several": 1}, requires={}, gpus={}, claimed="",
        basis=(), discharge_status=None, ship_blocking=False,
    )  # fmt: skip


def equal(**fields: Any) -> EqualRanks:
    return EqualRanks.model_validate({"kind": "equal_ranks", **fields})


def test_ranks_that_say_the_same_are_equal() -> None:
    found = ranks_of(said([3.0, 2.0, 1.0], h="a"), said([3.0, 2.0, 1.0], h="a"))
    outcome = equal(facts=["h"]).evaluate(found)
    assert (outcome.verdict, outcome.figure) == (Verdict.PASS, "0 differences")


def test_the_first_difference_of_ranks_is_named() -> None:
    found = ranks_of(said([3.0, 2.0, 1.0]), said([3.0, 2.0, 1.0]), said([3.0, 2.5, 1.0]))
    outcome = equal().evaluate(found)
    assert outcome.verdict is Verdict.FAIL
    assert "ranks 0 and 2: train_loss at step 1, 2.0 and 2.5" in outcome.summary
    assert equal(ranks=[0, 1]).evaluate(found).verdict is Verdict.PASS
    assert equal(tolerance=0.5).evaluate(found).verdict is Verdict.PASS


def test_every_two_ranks_must_differ() -> None:
    found = ranks_of(said([3.0, 2.0, 1.0]), said([4.0, 2.0, 1.0]), said([3.0, 2.0, 1.0]))
    assert equal(expect="differ").evaluate(found).verdict is Verdict.FAIL
    assert equal(expect="differ", ranks=[0, 1]).evaluate(found).verdict is Verdict.PASS


def test_a_silent_rank_and_nan_decide_nothing() -> None:
    nan = float("nan")
    silent = equal().evaluate(ranks_of(said([3.0, 2.0, 1.0]), Telemetry()))
    assert silent.verdict is Verdict.INCONCLUSIVE
    assert "no steps of rank 1" in silent.summary
    found = ranks_of(said([3.0, nan, 1.0]), said([3.0, nan, 1.0]))
    assert equal().evaluate(found).verdict is Verdict.FAIL
    cut = ranks_of(said([3.0, 2.0], events=()), said([3.0, 2.0], events=()), status="KILLED")
    assert equal().evaluate(cut).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("events", "status"),
    [
        (FINISHED, "COMPLETED"),
        ((Event("rank_ended", None, {"status": "NUMERICAL_INSTABILITY"}),),
         "NUMERICAL_INSTABILITY"),
        ((Event("rank_ended", None, {"status": "SPLENDID"}),), "KILLED"),
        ((), "KILLED"),
    ],
)  # fmt: skip
def test_a_ranks_end_is_what_it_said_of_it(events: tuple[Event, ...], status: str) -> None:
    assert rank_status(Telemetry(events=events)) == status


def test_a_check_holds_each_rank_to_it_and_the_worst_decides() -> None:
    found = ranks_of(said([3.0, 2.0, 1.0]), said([3.0, 2.0], events=()), status="KILLED")
    both = ExitStatus(kind="exit_status", expect="KILLED", ranks="all")
    judgement = judge(gate(both, found), {"several": (found,)})
    assert judgement.verdict is Verdict.FAIL
    assert judgement.outcomes[0].summary == "rank 0: ended COMPLETED, not KILLED"
    one = ExitStatus(kind="exit_status", expect="KILLED", ranks=(1,))
    assert judge(gate(one, found), {"several": (found,)}).verdict is Verdict.PASS
    group = ExitStatus(kind="exit_status", expect="KILLED")
    assert judge(gate(group, found), {"several": (found,)}).verdict is Verdict.PASS


# --- residency ----------------------------------------------------------------------------------


def resident(rank: int, *, device: str | None = None, mib: float = 6000.0, pid: int | None = None,
             shards: int = 1) -> tuple[Telemetry, Rank]:  # fmt: skip
    device = device or f"cuda:{rank}"
    pid = 100 + rank if pid is None else pid
    held = pretrain_run().architecture.training_bytes // shards + MIB
    placed = {"parameters": {device: held // 3}, "optimizer": {device: held}}
    telemetry = Telemetry(
        steps=steps_series(wall_ms=[100.0] * 3, memory_mib=[mib] * 3),
        events=(Event("training_started", None, {"at_ms": 1000.0}), *FINISHED),
        facts={"device_requested": f"cuda:{rank}", "device_resolved": device,
               "residency_before": placed, "residency_after": placed},
    )  # fmt: skip
    samples = tuple(Sample(at_ms=1000.0 + 50 * at, pid=pid, used_mib=mib) for at in range(7))
    gpu = Gpu("NVIDIA H200", f"GPU-{rank}", 143_771)
    return telemetry, Rank(100 + rank, gpu, Witness(samples))


def residency(found: Evidence, **fields: Any) -> tuple[Verdict, str]:
    check = Residency.model_validate(
        {"kind": "residency", "require": ["L0", "L1", "L2", "L3", "L5"], "ranks": "all", **fields}
    )
    judgement = judge(gate(check, found), {"several": (found,)})
    return judgement.verdict, judgement.outcomes[0].summary


def several(*pairs: tuple[Telemetry, Rank], parallel: str = "ddp") -> Evidence:
    telemetry, ranks = zip(*pairs, strict=True)
    return ranks_of(*telemetry, parallel=parallel, ranks=ranks)


def test_each_rank_lives_on_its_own_gpu_under_its_own_pid() -> None:
    found = several(resident(0), resident(1))
    verdict, text = residency(found)
    assert verdict is Verdict.PASS, text
    # The share of a rank, not the whole batch, is what its GPU has computed.
    assert found.of_rank(1).run.model_dump()["batch_size"] == 16


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (resident(1, device="cuda:0"), "rank 1: 3 of 5 layers proven; L0 REFUTED"),
        (resident(1, mib=900.0), "rank 1: 3 of 5 layers proven; L2 REFUTED"),
        (resident(1, pid=100), "rank 1: 4 of 5 layers proven; L3 UNAVAILABLE: PID 101 is in no"),
    ],
)
def test_a_rank_that_lives_elsewhere_is_seen(second: tuple[Telemetry, Rank], said: str) -> None:
    verdict, text = residency(several(resident(0), second))
    assert verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE}
    assert text.startswith(said), text


def test_a_shard_is_held_to_its_share_of_the_census() -> None:
    pair = [resident(rank, mib=2200.0, shards=2) for rank in range(2)]
    assert residency(several(*pair, parallel="fsdp"))[0] is Verdict.PASS
    assert residency(several(*pair, parallel="ddp"))[0] is Verdict.FAIL
    shape = pretrain_run().architecture
    assert shape.shard_bytes(2) <= shape.training_bytes // 2
    assert shape.shard_bytes(1) == shape.training_bytes

"""Checks of training: each passes on what is right and fails on the one thing that is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from builders import event, evidence, pretrain_run, steps_series
from pydantic import ValidationError

from pytest_gates.checks.anatomy import Anatomy
from pytest_gates.checks.artifacts import Artifacts
from pytest_gates.checks.base import Need, Verdict
from pytest_gates.checks.layer_statistics import LayerStatistics
from pytest_gates.checks.memory import Memory
from pytest_gates.checks.monotone import Monotone
from pytest_gates.checks.ratio_of_runs import RatioOfRuns
from pytest_gates.checks.schedule import Schedule
from pytest_gates.evidence import Artifact, Evidence, Sample, Series, Witness
from pytest_gates.model.config import ForwardRun
from pytest_gates.model.memory import memory_estimate
from pytest_gates.model.schedule import learning_rate

PASS, FAIL, INCONCLUSIVE, BLOCKED = (
    Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.BLOCKED,
)  # fmt: skip
FORWARD = ForwardRun.model_validate({"driver": "forward", "device": "cpu", "model": "llama-1m"})
TINY = {"hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 24, "vocab": 256}


def tiny(**settings: Any) -> Any:
    data = {"corpus": "python-stdlib"}
    plain = {"device": "cpu", "model": TINY, "data": data, "seq_len": 8, "batch_size": 4}
    return pretrain_run(**{**plain, "optimizer": {"warmup_steps": 1}, "steps": 20, **settings})


# --- monotone ------------------------------------------------------------------------------------


def monotone(**said: Any) -> Monotone:
    return Monotone.model_validate({"kind": "monotone", "metric": "tokens", **said})


def rising(*values: float, **said: Any) -> Evidence:
    return evidence(steps=steps_series(tokens=values), status="ABORTED", **said)


@pytest.mark.parametrize(
    ("direction", "values", "verdict"),
    [
        ("increasing", (1, 2, 3), PASS),
        ("increasing", (1, 2, 2), FAIL),
        ("non_decreasing", (1, 2, 2), PASS),
        ("non_decreasing", (1, 2, 1.9), FAIL),
        ("decreasing", (3, 2, 1), PASS),
        ("decreasing", (3, 3), FAIL),
        ("non_increasing", (3, 3, 1), PASS),
        ("non_increasing", (3, 3.1), FAIL),
        ("increasing", (1, math.nan, 3), FAIL),
        ("increasing", (1,), INCONCLUSIVE),
    ],
)
def test_a_direction_is_kept_or_not(
    direction: str, values: tuple[float, ...], verdict: Verdict
) -> None:
    assert monotone(direction=direction).evaluate(rising(*values)).verdict is verdict


def test_slack_bears_a_small_step_back() -> None:
    assert monotone(direction="non_increasing", slack=0.5).evaluate(rising(3, 3.5)).verdict is PASS
    assert monotone(direction="non_increasing", slack=0.4).evaluate(rising(3, 3.5)).verdict is FAIL


# --- schedule ------------------------------------------------------------------------------------


def schedule(**said: Any) -> Schedule:
    return Schedule.model_validate({"kind": "schedule", **said})


def rates(factor: float = 1.0, at: int = 7) -> Evidence:
    run = tiny()
    values = [learning_rate(step, 20, run.optimizer) for step in range(20)]
    values[at] *= factor
    return evidence(run, steps=steps_series(lr=values))


def test_a_schedule_is_its_closed_form() -> None:
    assert schedule().evaluate(rates()).verdict is PASS
    assert schedule().evaluate(rates(1 + 5e-7)).verdict is PASS
    outcome = schedule().evaluate(rates(1 + 5e-6))
    assert outcome.verdict is FAIL
    assert "at step 7, its closed form" in outcome.summary
    assert schedule(steps=(8, 19)).evaluate(rates(2.0)).verdict is PASS
    assert schedule().evaluate(rates(math.nan)).verdict is FAIL
    assert schedule().evaluate(evidence(tiny())).verdict is INCONCLUSIVE


def test_a_schedule_has_a_shape() -> None:
    assert schedule(warmup_at_most=0.05).evaluate(rates()).verdict is PASS
    assert "the warm-up takes 0.05" in schedule(warmup_at_most=0.04).evaluate(rates()).summary
    assert "of the peak is left" in schedule(last_at_most=0.05).evaluate(rates()).summary
    assert [text for _, text in schedule().refusals(FORWARD)] == [
        "driver forward declares no schedule"
    ]


# --- layer_statistics ----------------------------------------------------------------------------


def statistics(**said: Any) -> LayerStatistics:
    plain = {"kind": "layer_statistics", "metric": "gradient_norm"}
    return LayerStatistics.model_validate({**plain, **said})


def parameters(*rows: tuple[int, str, float], step: float = 0.0) -> Evidence:
    columns = {
        "step": tuple(step for _ in rows),
        "layer": tuple(float(layer) for layer, _, _ in rows),
        "name": tuple(name for _, name, _ in rows),
        "gradient_norm": tuple(value for _, _, value in rows),
    }
    said = evidence(tiny(statistics=[0]))
    return replace(said, telemetry=(replace(said.main, parameters=Series(columns)),))


GOOD = ((0, "q", 1.0), (1, "q", 3.0), (0, "k", 5.0), (1, "k", 4.0), (-1, "norm", 0.0))


def test_no_block_has_zero_gradient() -> None:
    assert statistics(above=0).evaluate(parameters(*GOOD)).verdict is PASS
    assert statistics(above=0, over="all parameters").evaluate(parameters(*GOOD)).verdict is FAIL
    outcome = statistics(above=0).evaluate(parameters(*GOOD, (1, "v", 0.0)))
    assert outcome.verdict is FAIL
    assert "block 1 v is 0" in outcome.summary
    assert statistics(above=0).evaluate(parameters((0, "q", math.nan))).verdict is FAIL


def test_blocks_are_within_a_ratio_parameter_by_parameter() -> None:
    assert statistics(ratio_below=3.1).evaluate(parameters(*GOOD)).verdict is PASS
    outcome = statistics(ratio_below=3).evaluate(parameters(*GOOD))
    assert outcome.verdict is FAIL
    assert "of q differs by a factor of 3" in outcome.summary
    assert statistics(ratio_below=3, parameter="k").evaluate(parameters(*GOOD)).verdict is PASS
    assert statistics(ratio_below=9).evaluate(
        parameters((0, "q", 0.0), (1, "q", 1.0))
    ).verdict is FAIL  # fmt: skip


def test_a_silent_block_decides_nothing() -> None:
    assert statistics(above=0).evaluate(parameters((0, "q", 1.0))).verdict is INCONCLUSIVE
    assert statistics(above=0).evaluate(parameters(*GOOD, step=1.0)).verdict is INCONCLUSIVE
    refused = [path for path, _ in statistics(above=0, step=5).refusals(tiny(statistics=[0]))]
    assert refused == [("step",)]
    with pytest.raises(ValidationError, match="no metric of parameters"):
        statistics(metric="lr", above=0)


# --- memory --------------------------------------------------------------------------------------


def held(cuda: bool = False, **changes: Any) -> Evidence:
    run = tiny(device="cuda:0" if cuda else "cpu")
    size = 4 * run.architecture.parameters
    found = {"parameters": {"cpu": size}, "gradients": {"cpu": size},
             "optimizer": {"cpu": 2 * size + 4 * 21}}  # fmt: skip
    facts = {"residency_after": found | changes, "device_resolved": run.device, "peak_mib": 0.25}
    return evidence(run, facts=facts)


def test_state_is_as_large_as_its_formula_to_the_byte() -> None:
    check = Memory.model_validate({"kind": "memory"})
    assert check.evaluate(held()).verdict is PASS
    size = held().main.facts["residency_after"]["parameters"]["cpu"]
    outcome = check.evaluate(held(gradients={"cpu": size - 4}))
    assert outcome.verdict is FAIL
    assert f"gradients hold {size - 4:,} bytes, the formula says {size:,}" in outcome.summary
    assert check.evaluate(evidence(tiny())).verdict is INCONCLUSIVE


def test_a_peak_is_within_the_estimate_and_the_estimate_no_guess() -> None:
    estimate = memory_estimate(tiny(), bf16=True).total / 2**20
    share = 0.25 / estimate
    check = {"kind": "memory", "peak": "within"}
    within = Memory.model_validate(check | {"peak_at_least": share * 0.9})
    assert within.evaluate(held(cuda=True)).verdict is (PASS if share <= 1 else FAIL)
    guess = Memory.model_validate(check | {"peak_at_least": share * 1.1})
    assert guess.evaluate(held(cuda=True)).verdict is FAIL
    assert guess.evaluate(held()).verdict is INCONCLUSIVE
    assert [path for path, _ in guess.refusals(tiny())] == [("peak",)]


# --- anatomy -------------------------------------------------------------------------------------


def dissected(**changes: float) -> Evidence:
    parts = {"gap_ms": 5.0, "data_ms": 5.0, "forward_ms": 30.0, "backward_ms": 50.0,
             "clip_ms": 4.0, "optimizer_ms": 4.0, "wall_ms": 100.0}  # fmt: skip
    columns = {name: [None] * 10 + [value] * 10 for name, value in (parts | changes).items()}
    return evidence(tiny(anatomy=10), steps=steps_series(**columns))


def test_parts_cover_a_step() -> None:
    check = Anatomy.model_validate({"kind": "anatomy", "at_most": {"gap": 0.1}})
    assert check.evaluate(dissected()).verdict is PASS
    assert check.evaluate(dissected(backward_ms=46.0)).verdict is FAIL
    outcome = check.evaluate(dissected(gap_ms=15.0, forward_ms=20.0))
    assert outcome.verdict is FAIL
    assert "gap takes 0.15" in outcome.summary
    assert check.evaluate(evidence(tiny(anatomy=10))).verdict is INCONCLUSIVE
    assert len(list(check.refusals(tiny()))) == 1


# --- artifacts -----------------------------------------------------------------------------------


DIVERGED = event("diverged", 9, epoch=1)


def kept(**changes: Any) -> Evidence:
    run = pretrain_run(checkpoint="epoch", resume={"run": pretrain_run(checkpoint="epoch")})
    count = run.architecture.parameters
    weights = {"a": f"F32[{count}]"}
    state = {"a.exp_avg": weights["a"], "a.exp_avg_sq": weights["a"], "a.step": "F32[]"}
    metadata = {
        **dict.fromkeys(("epoch", "train_loss", "val_loss", "train_ppl", "val_ppl"), 1.0),
        **dict.fromkeys(("wall_seconds", "tokens_seen", "grad_norm_max"), 1.0),
        "optimizer_state_sha256": "22",
        "files": {"epoch-000.safetensors": {"sha256": "11"},
                  "epoch-000.optimizer.safetensors": {"sha256": "22"}},
    } | changes.get("metadata", {})  # fmt: skip
    state = changes.get("state", state)
    files = [
        Artifact("checkpoints/epoch-000.safetensors", 8, changes.get("weights", "11"), weights),
        Artifact(
            "checkpoints/epoch-000.optimizer.safetensors", 8, "22", changes.get("state", state)
        ),
        Artifact("checkpoints/epoch-000.metadata.json", 8, "33", None, metadata),
        Artifact("source/epoch-000.safetensors", 8, changes.get("source", "44")),
    ]
    epochs = Series({"epoch": tuple(map(float, changes.get("epochs", (0,))))})
    return evidence(
        run, epochs=epochs,
        facts={"resumed_files": {"epoch-000.safetensors": "44"}, **changes.get("facts", {})},
        artifacts=tuple(files), status=changes.get("status", "COMPLETED"),
        events=changes.get("events", ()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"weights": "12"}, "other ones than were written"),
        ({"metadata": {"val_loss": "NaN"}}, "metadata lacks val_loss"),
        ({"metadata": {"val_loss": {"told": 1}}}, "metadata lacks val_loss"),
        ({"metadata": {"files": {}}}, "does not name its two files"),
        (
            {
                "metadata": {
                    "files": dict.fromkeys(
                        ("epoch-000.safetensors", "epoch-000.optimizer.safetensors"), 3
                    )
                }
            },
            "other ones than were written",
        ),
        ({"events": [event("diverged", 9, epoch={"not": "a number"})]}, None),
        ({"state": {"a.step": "F32[]"}}, "optimizer state lacks a.exp_avg"),
        ({"source": "45"}, "epoch-000.safetensors was changed"),
        ({"epochs": (0, 1)}, "epoch 1 left no checkpoint"),
        ({"epochs": (0, 1), "status": "KILLED"}, None),
        (
            {"epochs": (0, 1), "status": "DIVERGENCE", "events": [DIVERGED]},
            None,
        ),
    ],
)
def test_checkpoints_are_whole_or_the_gate_is_red(
    changes: dict[str, Any], told: str | None
) -> None:
    check = Artifacts.model_validate({"kind": "artifacts", "source_unchanged": True})
    outcome = check.evaluate(kept(**changes))
    assert outcome.verdict is (PASS if told is None else FAIL)
    assert told is None or told in outcome.summary


STOOD = [event("training_started", at_ms=1000.0), event("run_finished", at_ms=3000.0)]


@pytest.mark.parametrize(
    ("asked", "facts", "told"),
    [
        ({"blocked_share_below": 0.05}, {"checkpoint_blocked_ms": 99.9}, None),
        (
            {"blocked_share_below": 0.05},
            {"checkpoint_blocked_ms": 100.0},
            "the training stood still 5 % of its time, limit 5 %",
        ),
        ({"blocked_share_below": 0.05}, {}, "does not say how long it trained and stood still"),
        (
            {"blocked_share_below": 0.05},
            {"checkpoint_blocked_ms": "100"},
            "does not say how long it trained and stood still",
        ),
        ({"host_memory_below": 2.0}, {"host_peak_mib": 31.9 / 2**20}, None),
        (
            {"host_memory_below": 2.0},
            {"host_peak_mib": 32 / 2**20},
            "limit 2 times the checkpoint's 1.52588e-05 MiB",
        ),
        ({"host_memory_below": 2.0}, {}, "does not say how much memory of the host it held"),
    ],
)
def test_what_checkpoints_cost_has_a_limit(
    asked: dict[str, float], facts: dict[str, object], told: str | None
) -> None:
    check = Artifacts.model_validate({"kind": "artifacts", **asked})
    outcome = check.evaluate(kept(facts=facts, events=STOOD))
    assert outcome.verdict is (PASS if told is None else FAIL)
    assert told is None or told in outcome.summary


def test_a_run_that_keeps_nothing_has_no_artifacts() -> None:
    check = Artifacts.model_validate({"kind": "artifacts", "source_unchanged": True})
    assert len(list(check.refusals(tiny()))) == 1
    assert [path for path, _ in check.refusals(tiny(checkpoint="epoch"))] == [("source_unchanged",)]


# --- ratio_of_runs -------------------------------------------------------------------------------


def ratio(**said: Any) -> RatioOfRuns:
    plain = {"kind": "ratio_of_runs", "of": ("a", "b"), "steps": (0, 99), "below": 1.1}
    return RatioOfRuns.model_validate({**plain, **said})


def timed(a: float, b: float, group: str | None = "g", **said: Any) -> dict[str, Any]:
    return {
        name: (evidence(id=name * 64, steps=steps_series(wall_ms=[ms] * 100), group=group, **said),)
        for name, ms in (("a", a), ("b", b))
    }


def test_a_ratio_is_decided_pair_by_pair() -> None:
    assert ratio().evaluate(timed(109, 100)).verdict is PASS
    outcome = ratio().evaluate(timed(111, 100))
    assert outcome.verdict is FAIL
    assert outcome.value == pytest.approx(1.11)
    assert ratio(below=None, above=1.1).evaluate(timed(111, 100)).verdict is PASS
    assert ratio().evaluate(timed(0, 100)).verdict is INCONCLUSIVE


def test_common_drift_cancels_and_executions_that_took_no_turns_are_no_pair() -> None:
    drift = [100.0 + step for step in range(100)]
    pair = timed(1, 1)
    for name, factor in (("a", 1.05), ("b", 1.0)):
        values = [factor * value for value in drift]
        steps = steps_series(wall_ms=values)
        pair[name] = (evidence(id=name * 64, steps=steps, group="g"),)
    assert ratio().evaluate(pair).verdict is PASS
    assert ratio().evaluate(timed(100, 100, group=None)).verdict is BLOCKED
    assert ratio().evaluate({}).verdict is BLOCKED


def test_a_stranger_on_the_device_leaves_a_ratio_open_and_the_partner_is_none() -> None:
    for strangers, verdict in ((1, PASS), (2, INCONCLUSIVE)):
        seen = Witness((Sample(at_ms=1.0, pid=1, used_mib=1.0, foreign_pids=strangers),))
        assert ratio().evaluate(timed(100, 100, witness=seen)).verdict is verdict


def test_what_cannot_be_a_ratio_is_refused() -> None:
    assert ratio().needs() == (Need("a"), Need("b"))
    assert ratio().groups() == (("a", "b"),)
    runs = {"a": pretrain_run(), "b": tiny(steps=100)}
    (found,) = ratio().refusals(None, runs=runs)
    assert "different devices: cpu, cuda:0" in found[1]
    few = ratio(steps=(0, 4)).refusals(None, runs={"a": pretrain_run(), "b": pretrain_run()})
    assert "needs 9 steps" in next(iter(few))[1]
    with pytest.raises(ValidationError, match="no ratio to itself"):
        ratio(of=("a", "a"))

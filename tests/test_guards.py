"""What ends a run: divergence, instability, data that end, patience; and what it leaves then."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError
from training import TINY, Train

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import RunRefusedError

EPOCHS = {"steps": 8, "validate_every": 2}


def test_a_nan_leaves_the_parameters_of_the_step_before(train: Train) -> None:
    poisoned, error = train.ended(stimulus={"kind": "nan", "step": 3}, steps=6, deterministic=True)
    assert error.status == "NUMERICAL_INSTABILITY"
    assert "step 3" in error.reason
    assert poisoned.steps[-1]["train_loss"] == poisoned.steps[-1]["grad_norm"] == "NaN"
    assert len(poisoned.steps) == 4
    assert [event["step"] for event in poisoned.events("non_finite")] == [3]
    assert [event["step"] for event in poisoned.events("stimulus_applied")] == [3]
    hashes = poisoned.column("param_hash")
    assert hashes[3] == hashes[2] != hashes[1]
    stopped, _ = train.ended(
        stimulus={"kind": "data_end", "step": 3}, on_data_end="halt", steps=6, deterministic=True
    )
    assert poisoned.facts["param_sha256"] == stopped.facts["param_sha256"]
    assert poisoned.facts["optimizer_steps"] == stopped.facts["optimizer_steps"] == 3
    assert poisoned.column("train_loss")[:3] == train(steps=6).column("train_loss")[:3]


def test_data_that_end_are_the_first_of_data_that_do_not(train: Train) -> None:
    whole = train(steps=8)
    halted, error = train.ended(
        steps=8, stimulus={"kind": "data_end", "step": 5}, on_data_end="halt"
    )
    assert error.status == "STREAM_EXHAUSTED"
    assert "after 5 steps and 160 tokens" in error.reason
    assert halted.column("train_loss") == whole.column("train_loss")[:5]
    assert halted.facts["tokens"] == 160
    assert [event["tokens"] for event in halted.events("data_ended")] == [160]
    cycled = train(steps=8, stimulus={"kind": "data_end", "step": 5})
    assert [(e["step"], e["tokens"]) for e in cycled.events("data_cycled")] == [(5, 160)]
    assert cycled.column("data_hash")[:5] == whole.column("data_hash")[:5]
    assert cycled.column("data_hash")[5:] != whole.column("data_hash")[5:]
    assert len(set(cycled.column("train_loss"))) == 8


def test_a_real_end_of_the_data_halts_too(train: Train) -> None:
    np.arange(100, dtype="<u2").tofile(train.folder / "a.bin")
    data = {"shards": ["a.bin"], "validation": 0.2}
    said, error = train.ended(data=data, steps=8, on_data_end="halt")
    assert error.status == "STREAM_EXHAUSTED"
    assert len(said.steps) == 2


def test_a_validation_that_finds_nan_is_divergence_and_no_stimulus(train: Train) -> None:
    said, error = train.ended(Seams(validation_loss=lambda loss: loss * math.nan), steps=4)
    assert error.status == "DIVERGENCE"
    assert said.events("stimulus_applied") == []


@pytest.mark.parametrize(("times", "status"), [(2.5, "DIVERGENCE"), (2.0, None), (1.0, None)])
def test_more_than_twice_the_epoch_before_is_divergence(
    train: Train, times: float, status: str | None
) -> None:
    stimulus = {"kind": "val_loss", "epoch": 2, "times_previous": times}
    if status is None:
        assert len(train(**EPOCHS, stimulus=stimulus).epochs) == 4
        return
    said, error = train.ended(**EPOCHS, stimulus=stimulus)
    assert error.status == status
    assert len(said.epochs) == 3
    assert said.epochs[2]["val_loss"] == pytest.approx(2.5 * said.epochs[1]["val_loss"])
    (event,) = said.events("diverged")
    assert (event["epoch"], event["step"]) == (2, 5)
    assert said.steps[-1]["step"] == 5


@pytest.mark.parametrize(
    ("regime", "value", "diverges"),
    [
        ("finetune", 9.99, False),
        ("finetune", 10.01, True),
        ("from_scratch", 10.01, False),
        ("from_scratch", 2 * math.log(256) + 0.01, True),
        (None, 2 * math.log(256) - 0.01, False),
        (None, 2 * math.log(256) + 0.01, True),
    ],
)
def test_the_first_validation_has_the_regime_s_bound(
    train: Train, regime: str | None, value: float, diverges: bool
) -> None:
    settings = {
        "stimulus": {"kind": "val_loss", "epoch": 0, "value": value},
        "optimizer": {"warmup_steps": 1}, "regime": regime, "steps": 2,
    }  # fmt: skip
    if diverges:
        assert train.ended(**settings)[1].status == "DIVERGENCE"
    else:
        assert train(**settings).epochs[0]["val_loss"] == value


def test_patience_ends_a_run_that_no_longer_improves(train: Train) -> None:
    still = {"lr": 1e-30, "warmup_steps": 0}
    rule = {"patience": 2, "min_epochs": 4}
    said = train(steps=20, validate_every=2, early_stopping=rule, optimizer=still)
    assert len(said.epochs) == 4
    (event,) = said.events("stopped_early")
    assert (event["epoch"], event["step"]) == (3, 7)
    better = train(steps=8, validate_every=2, early_stopping=rule, optimizer=still | {"lr": 0.01})
    assert better.events("stopped_early") == []


def test_an_epoch_says_its_figures(train: Train) -> None:
    said = train(**EPOCHS, target_val_loss=5.5, optimizer={"lr": 0.01, "warmup_steps": 0})
    losses, norms = said.column("train_loss"), said.column("grad_norm")
    for number, epoch in enumerate(said.epochs):
        own = slice(2 * number, 2 * number + 2)
        assert epoch["epoch_loss"] == pytest.approx(np.mean(losses[own]))
        assert epoch["train_ppl"] == pytest.approx(math.exp(epoch["epoch_loss"]))
        assert epoch["val_ppl"] == pytest.approx(math.exp(epoch["val_loss"]))
        assert epoch["tokens_seen"] == 64 * (number + 1)
        assert epoch["grad_norm_max"] == max(norms[own])
        assert epoch["epoch_s"] > 0
    first = next(epoch["epoch"] for epoch in said.epochs if epoch["val_loss"] <= 5.5)
    assert [event["epoch"] for event in said.events("target_reached")] == [first]


@pytest.mark.parametrize(
    ("parts", "tolerance"), [(1, 0), (2, 1e-5), (4, 1e-5), ([3, 1], 1e-5), ([1, 1, 2], 1e-5)]
)
def test_accumulated_micro_batches_are_the_whole_batch(
    train: Train, parts: object, tolerance: float
) -> None:
    whole, parted = train(steps=5), train(steps=5, micro_batches=parts)
    for metric in ("train_loss", "grad_norm"):
        assert parted.column(metric) == pytest.approx(whole.column(metric), abs=tolerance)
    assert parted.facts["optimizer_steps"] == 5
    assert parted.facts["gradient_dtype"] == "float32"


def test_a_regime_sets_what_is_not_given_and_says_where_each_value_came_from(train: Train) -> None:
    said = train(steps=100, regime="finetune", optimizer={"lr": 1e-4}, validation_batches=1)
    facts = said.facts
    assert facts["config.optimizer.lr"] == 1e-4
    assert facts["config.optimizer.lr.from"] == "explicit"
    assert facts["config.optimizer.warmup_steps"] == 100
    assert facts["config.optimizer.warmup_steps.from"] == "regime finetune"
    assert facts["config.target_val_loss"] == 2.2
    assert facts["config.optimizer.clip.from"] == "default"
    assert facts["config.first_val_cap"] == 10.0
    assert said.column("lr")[9] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"epochs": 2, "validate_every": 3}, "2 epochs of 3 steps reach 6 steps"),
        ({"micro_batches": 3}, "batch_size 4 does not divide into 3"),
        ({"micro_batches": [3, 2]}, "3 \\+ 2 make 5 sequences, batch_size is 4"),
        ({"optimizer": {"warmup_steps": 9}}, "warm-up of 9 steps is longer than the run of 8"),
        ({"stimulus": {"kind": "nan", "step": 8}}, "step 8 lies beyond the run's 8 steps"),
        ({"statistics": [0, 8]}, "step 8 lies beyond the run's 8 steps"),
        ({"anatomy": 9}, "anatomy of 9 steps is longer"),
        ({"validation_batches": 0, "checkpoint": "epoch"}, "checkpoint needs validations"),
        ({"model": {**TINY, "vocab": 255}}, "256 ids, the model's vocabulary only 255"),
        ({"stimulus": {"kind": "val_loss", "epoch": 0, "times_previous": 3}}, "give value"),
    ],
)
def test_what_can_be_known_is_refused_when_loaded(
    train: Train, settings: dict[str, object], numbers: str
) -> None:
    run = train.request(steps=8).run
    with pytest.raises(ValidationError, match=numbers):
        PretrainRun.model_validate({**run.model_dump(mode="json"), **settings})


def test_epochs_over_the_data_that_end_too_soon_are_refused_with_the_numbers(train: Train) -> None:
    np.zeros(400, "<u2").tofile(train.folder / "a.bin")
    data = {"shards": ["a.bin"], "validation": 0.1}  # 360 tokens: 44 windows, 11 batches
    with pytest.raises(RunRefusedError, match=r"2 epochs of 11 steps reach 22.*needs 3 epochs"):
        train(data=data, steps=25, epochs=2)
    assert len(train(data=data, steps=22, epochs=2).epochs) == 2

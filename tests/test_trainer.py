"""The trainer: what it says of a run, whether it learns, and what it does when it is told."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training import CPU, TINY, Said, Train

from pytest_gates.model import trainer
from pytest_gates.model.config import Architecture, Optimizer
from pytest_gates.model.optimizer import build_optimizer
from pytest_gates.model.sabotage import seams_for
from pytest_gates.model.schedule import learning_rate
from pytest_gates.model.seams import Seams
from pytest_gates.model.step import Step
from pytest_gates.model.telemetry import REQUIRED_STEP_FIELDS
from pytest_gates.model.transformer import initialised
from pytest_gates.model.writer import TelemetryWriter


def test_a_million_parameters_learn_on_a_cpu(train: Train) -> None:
    said = train(
        model="llama-1m", seq_len=64, batch_size=8, steps=60,
        optimizer={"lr": 3e-3, "warmup_steps": 10},
    )  # fmt: skip
    losses = said.column("train_loss")
    assert losses[0] == pytest.approx(math.log(256), abs=0.1)
    assert np.mean(losses[50:]) < 3.2
    assert np.polyfit(range(60), losses, 1)[0] < -0.01
    assert said.epochs[-1]["val_loss"] < 3.5
    assert said.facts["parameters"] == 988_544


def test_a_step_says_every_required_field_and_they_agree(train: Train) -> None:
    said = train(steps=5)
    assert [step["step"] for step in said.steps] == list(range(5))
    for step in said.steps:
        assert set(REQUIRED_STEP_FIELDS) <= set(step)
        assert step["tokens"] == (step["step"] + 1) * 32
        assert step["tokens_per_sec"] == pytest.approx(32 / step["wall_ms"] * 1000)
        assert step["gpu_ms"] is None
        assert step["gpu_util_pct"] is None
        assert step["memory_mib"] > 50
        assert step["grad_norm"] > 0


def test_one_seed_is_one_run_and_another_seed_is_another(train: Train) -> None:
    first, again, other = train(), train(), train(seed=1)
    for metric in ("train_loss", "grad_norm", "lr"):
        assert first.column(metric) == again.column(metric)
    for fact in ("param_sha256_initial", "param_sha256", "data_sha256"):
        assert first.facts[fact] == again.facts[fact]
        assert first.facts[fact] != other.facts[fact]
    assert first.column("train_loss") != other.column("train_loss")
    assert first.facts["param_sha256"] != first.facts["param_sha256_initial"]
    assert first.facts["corpus_sha256"] == other.facts["corpus_sha256"]


def test_state_lies_where_the_run_says_and_is_as_large_as_declared(train: Train) -> None:
    said = train()
    shape = Architecture.model_validate(TINY)
    for when in ("residency_before", "residency_after"):
        found = said.facts[when]
        assert found["parameters"] == found["gradients"] == {"cpu": 4 * shape.parameters}
        assert 8 * shape.parameters <= found["optimizer"]["cpu"] < 8 * shape.parameters + 1000
    for part in ("parameter", "gradient", "optimizer"):
        assert said.facts[f"{part}_device"] == "cpu"
    assert said.facts["tied"] is False
    assert said.facts["compute_dtype"] == said.facts["parameter_dtype"] == "float32"
    assert said.facts["attention_backend"] == "FLASH_ATTENTION"
    assert said.facts["step_flops"] == train.request().run.step_flops


def test_tied_storage_is_a_fact_and_counted_once(train: Train) -> None:
    said = train(model={**TINY, "tied": True}, steps=2)
    assert said.facts["tied"] is True
    assert said.facts["residency_after"]["parameters"]["cpu"] == 4 * said.facts["parameters"]
    assert said.facts["parameters"] == Architecture.model_validate(TINY).parameters - 256 * 16


def test_the_learning_rate_that_was_used_follows_its_closed_form(train: Train) -> None:
    settings = {"lr": 0.01, "min_lr_ratio": 0.2, "warmup_steps": 3}
    said = train(steps=7, optimizer=settings)
    expected = [learning_rate(step, 7, Optimizer.model_validate(settings)) for step in range(7)]
    assert said.column("lr") == pytest.approx(expected, rel=1e-6)
    assert expected[:4] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01])
    assert expected[5] == pytest.approx(0.002 + 0.008 * 0.5)
    assert min(expected[3:]) > 0.002


def test_the_first_update_is_that_of_clipped_decayed_adamw(train: Train) -> None:
    settings = {"lr": 0.01, "warmup_steps": 0, "clip": 0.5, "weight_decay": 0.25}
    request = train.request(optimizer=settings)
    model = initialised(Architecture.model_validate(TINY), CPU, seed=0)
    step = Step(request.run, model, CPU)
    step.tokens.copy_(torch.randint(256, (4, 9), generator=torch.Generator().manual_seed(1)))
    step.lr.fill_(0.01)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = torch.autograd.grad(step.loss(step.tokens), list(model.parameters()))
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    _, said_norm, said_lr, unstable = step().tolist()
    assert unstable == 0
    assert said_norm == pytest.approx(norm, rel=1e-5)
    assert norm > 0.5
    assert said_lr == pytest.approx(0.01)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        clipped = gradient * 0.5 / norm
        # arXiv:1711.05101, algorithm 2, at t = 1: both bias-corrected moments are the gradient's.
        moved = before[name] - 0.01 * clipped / (clipped.abs() + 1e-8)
        decayed = moved - (0.01 * 0.25 * before[name] if parameter.dim() == 2 else 0)
        torch.testing.assert_close(parameter.detach(), decayed, rtol=1e-4, atol=2e-6)


def test_weight_decay_takes_each_matrix_once_and_no_norm() -> None:
    model = initialised(Architecture.model_validate({**TINY, "tied": True}), CPU, seed=0)
    groups = build_optimizer(model, Optimizer(), torch.zeros(())).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for p in model.parameters() if p.dim() == 2}
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_a_step_is_read_once_the_next_has_been_launched(train: Train) -> None:
    request, out = train.request(steps=6), train.out()
    lines_before: list[int] = []

    def look(step: int) -> None:
        assert step == len(lines_before)
        lines_before.append(len(Said(out).steps))

    with TelemetryWriter(out) as writer:
        trainer.run(request, CPU, writer, Seams(before_step=look))
    assert lines_before == [0, 0, 1, 2, 3, 4]
    assert len(Said(out).steps) == 6


def test_slow_step_makes_steps_slower_from_where_it_says(train: Train) -> None:
    said = train(seams_for({"fault": "slow_step", "ms": 80, "from_step": 2}))
    walls = said.column("wall_ms")
    assert min(walls[2:]) >= 80
    assert train().column("train_loss") == said.column("train_loss")


def test_validation_reads_the_same_held_out_windows_each_time(train: Train) -> None:
    said = train(steps=5, validate_every=2, validation_batches=3, optimizer={"warmup_steps": 0})
    assert [(e["epoch"], e["step"], e["val_tokens"]) for e in said.epochs] == [
        (0, 1, 96),
        (1, 3, 96),
        (2, 4, 96),
    ]
    assert said.epochs[0]["val_loss"] == pytest.approx(math.log(256), abs=0.1)
    still = train(steps=2, validate_every=1, optimizer={"lr": 1e-30, "warmup_steps": 0})
    assert still.epochs[0]["val_loss"] == still.epochs[1]["val_loss"]
    assert train(validation_batches=0).epochs == []


def test_a_validation_changes_nothing_of_the_training(train: Train) -> None:
    assert train(validate_every=1).column("train_loss") == train().column("train_loss")


def test_data_cycle_is_said_once_with_the_tokens_of_a_pass(train: Train) -> None:
    np.arange(100, dtype="<u2").tofile(train.folder / "a.bin")
    said = train(data={"shards": ["a.bin"], "validation": 0.2}, steps=8)
    (event,) = said.events("data_cycled")
    # 80 tokens hold 9 windows of 8, and a batch of 4 meets the tenth in step 2.
    assert (event["step"], event["tokens"]) == (2, 72)
    assert train(data={"shards": ["a.bin"], "validation": 0.2}, steps=2).events("data_cycled") == []


def while_it_waits(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have something done where a run would sleep between two looks at its control folder."""
    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: act())
    monkeypatch.setattr("pytest_gates.model.control.time", clock)


def test_told_sizes_are_held_until_they_were_seen(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Callable[[int], Path] = lambda index: train.folder / f"seen-{index}"  # noqa: E731
    seen(0).touch()
    while_held: list[list[str]] = []

    def look() -> None:
        told = (train.folder / "out-1" / "telemetry-0.jsonl").read_text(encoding="utf-8")
        lines = map(json.loads, told.splitlines())
        while_held.append([one["event"] for one in lines if one["kind"] == "event"])
        if len(while_held) == 3:
            seen(1).touch()

    while_it_waits(monkeypatch, look)
    said = train(allocations_mib=(3, 5), steps=2)
    held = said.events("memory_held")
    assert [(event["index"], event["mib"]) for event in held] == [(0, 3), (1, 5)]
    assert [events[-2:] for events in while_held] == [["memory_held"] * 2] * 3


def test_a_held_run_stands_before_its_next_step_with_all_others_said(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, out, hold = train.request(steps=6), train.out(), train.folder / "hold"
    said_while_held: list[int] = []
    held_s = [0.0]

    def let_go() -> None:
        said_while_held.append(len(Said(out).steps))
        held_s[0] = 3600.0
        hold.unlink()

    def stop(step: int) -> None:
        if step == 2:  # this step still runs; the one after it must wait
            hold.touch()

    while_it_waits(monkeypatch, let_go)
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + held_s[0])
    monkeypatch.setattr("pytest_gates.model.clock.time", clock)
    with TelemetryWriter(out) as writer:
        trainer.run(request, CPU, writer, Seams(before_step=stop))
    assert said_while_held == [3]
    assert max(Said(out).column("wall_ms")) < 3_600_000  # an hour that is no step's

"""Faults of state and settings, through the trainer: the sabotaged run differs where it should."""

from __future__ import annotations

import math
from typing import Any

import pytest
from training import TINY, Said, Train

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.faults import fault_adapter
from pytest_gates.model.sabotage import seams_for

UNVALIDATED = {"validation_batches": 0}
TIED = {"model": {**TINY, "tied": True}, **UNVALIDATED}
FINETUNE = {"regime": "finetune", "steps": 100, "optimizer": {"lr": 1e-4, "warmup_steps": 2}}


def both(train: Train, fault: dict[str, Any], **settings: Any) -> tuple[Said, Said]:
    """The clean run and the sabotaged one, where the fault says that it fits."""
    run = train.request(**settings).run
    assert fault_adapter.validate_python(fault).misfit(run) is None
    return train(**settings), train(seams_for(fault), **settings)


@pytest.mark.parametrize(
    ("fault", "settings", "fact", "expected"),
    [
        ({"fault": "bf16_embedding"}, UNVALIDATED, "gradient_dtype",
         ["float32", "bfloat16,float32"]),
        ({"fault": "double_step"}, {}, "optimizer_steps", [4, 8]),
        ({"fault": "optimizer_defaults"}, {}, "optimizer.beta2", [0.95, 0.999]),
        ({"fault": "optimizer_defaults"}, {}, "optimizer.weight_decay", [0.1, 0.01]),
        ({"fault": "tied_weights"}, {}, "tied", [False, True]),
        ({"fault": "stray_parameter", "count": 7}, TIED, "shapes_as_declared", [True, False]),
        (
            {"fault": "regime_wins"}, FINETUNE, "config.optimizer.lr.from",
            ["explicit", "regime finetune"],
        ),
        ({"fault": "other_regime"}, FINETUNE, "config.target_val_loss", [2.2, 3.8]),
        ({"fault": "other_regime"}, FINETUNE, "config.first_val_cap", [10.0, 2 * math.log(256)]),
    ],
)  # fmt: skip
def test_a_fact_says_so(
    train: Train, fault: dict[str, Any], settings: dict[str, Any], fact: str, expected: list[Any]
) -> None:
    assert [said.facts[fact] for said in both(train, fault, **settings)] == expected


def test_a_gradient_vanishes_in_its_block_alone(train: Train) -> None:
    fault = {"fault": "vanishing_gradient", "layer": 1, "factor": 0.0}
    clean, sabotaged = both(train, fault, statistics=[0])
    norms = [
        {(line["layer"], line["name"]): line["gradient_norm"]
         for line in said.lines if line["kind"] == "parameter"}
        for said in (clean, sabotaged)
    ]  # fmt: skip
    assert all(norm > 0 for norm in norms[0].values())
    assert {place for place, norm in norms[1].items() if norm == 0} == {
        place for place in norms[0] if place[0] == 1
    }


def test_initial_weights_are_wider_where_told(train: Train) -> None:
    fault = {"fault": "wrong_initialisation", "parameter": "mlp.up_proj.weight", "factor": 3.0}
    clean, sabotaged = both(train, fault, statistics=[0])
    wider = {
        line["name"]
        for line, other in zip(clean.lines, sabotaged.lines, strict=True)
        if line["kind"] == "parameter" and other["weight_std"] > 2 * line["weight_std"] > 0
    }
    assert wider == {"mlp.up_proj.weight"}


@pytest.mark.parametrize("parts", [2, [3, 1]])
def test_summed_micro_batches_grow_with_their_number(train: Train, parts: Any) -> None:
    clean, sabotaged = both(train, {"fault": "summed_accumulation"}, micro_batches=parts)
    assert sabotaged.column("train_loss")[0] == pytest.approx(
        2 * (clean.column("train_loss")[0] or 0), rel=0.05
    )


@pytest.mark.parametrize(("field", "told"), [("step", [0, 1, 0, 1]), ("tokens", [32, 64, 32, 64])])
def test_a_counter_begins_again(train: Train, field: str, told: list[int]) -> None:
    fault = {"fault": "counter_restarts", "field": field, "step": 2}
    _, sabotaged = both(train, fault)
    assert [line[field] for line in sabotaged.steps] == told


def test_hidden_work_is_in_no_part(train: Train) -> None:
    clean, sabotaged = both(train, {"fault": "hidden_work", "ms": 40}, anatomy=2)
    parts = ("gap_ms", "data_ms", "forward_ms", "backward_ms", "clip_ms", "optimizer_ms")
    for line in sabotaged.steps[-2:]:
        assert line["wall_ms"] - sum(line[part] for part in parts) > 35
    assert len(clean.steps) == len(sabotaged.steps)


def test_a_guard_that_ends_every_run(train: Train) -> None:
    said, error = train.ended(seams_for({"fault": "false_divergence"}))
    assert error.status == "DIVERGENCE"
    assert len(said.events("diverged")) == 1


def test_a_checkpoint_that_is_waited_for(train: Train) -> None:
    clean, sabotaged = both(train, {"fault": "slow_checkpoint", "ms": 80}, checkpoint="epoch")
    blocked = [said.facts["checkpoint_blocked_ms"] for said in (clean, sabotaged)]
    assert blocked[1] > 80


@pytest.mark.parametrize(
    ("fault", "settings", "why"),
    [
        ({"fault": "bf16_embedding"}, {"model": {**TINY, "tied": True}}, "is tied"),
        ({"fault": "tied_weights"}, {"model": {**TINY, "tied": True}}, "is not untied"),
        ({"fault": "stray_parameter"}, {"statistics": [0]}, "every parameter"),
        ({"fault": "summed_accumulation"}, {}, "one part"),
        ({"fault": "vanishing_gradient", "layer": 2}, {}, "layer 2 lies beyond the model's 2"),
        ({"fault": "regime_wins"}, {}, "no regime"),
        ({"fault": "regime_wins"}, {"regime": "from_scratch", "steps": 30, "optimizer": {}},
         "gives nothing"),
        ({"fault": "determinism_off"}, {}, "nothing deterministic"),
        ({"fault": "slow_side", "side": "deterministic"}, {}, "no setting deterministic"),
        ({"fault": "hidden_work"}, {}, "takes no step apart"),
        ({"fault": "resume_ignored"}, {}, "continues no other"),
        ({"fault": "config_match_off"}, {}, "continues no other"),
        ({"fault": "hash_check_off"}, {}, "continues no other"),
        ({"fault": "slow_checkpoint"}, {}, "keeps no checkpoint"),
        ({"fault": "optimizer_defaults"},
         {"optimizer": {"warmup_steps": 1, "beta2": 0.999, "weight_decay": 0.01}}, "itself"),
    ],
)  # fmt: skip
def test_a_fault_says_why_it_does_not_fit(
    train: Train, fault: dict[str, Any], settings: dict[str, Any], why: str
) -> None:
    run = train.request(**settings).run
    assert isinstance(run, PretrainRun)
    assert why in str(fault_adapter.validate_python(fault).misfit(run))

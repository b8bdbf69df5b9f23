"""A fused step is captured once: which faults it carries, and what becomes of the others."""

from __future__ import annotations

import torch

from pytest_gates.contract.falsifiers import FAULT_NAMES
from pytest_gates.contract.load import contract_from
from pytest_gates.contract.runs import Caps
from pytest_gates.model.config import PretrainRun
from pytest_gates.model.faults import Planted
from pytest_gates.model.fused.fits import why_eager
from pytest_gates.model.sabotage import seams_for
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.run.plan import executions

RUN = {
    "driver": "pretrain",
    "device": "cuda:0",
    "model": "llama-1m",
    "data": {"corpus": "python-stdlib"},
    "seq_len": 32,
    "batch_size": 2,
    "steps": 8,
    "optimizer": {"warmup_steps": 2},
}


def run(**settings: object) -> PretrainRun:
    return PretrainRun.model_validate({**RUN, **settings})


def test_a_fault_that_a_captured_step_is_said_to_carry_stays_outside_of_it() -> None:
    carried = {name: form for name, form in FAULT_NAMES.items() if form.captured}
    assert carried
    for form in carried.values():
        if issubclass(form, Planted):  # evidence is forged, no run is reached
            continue
        fault = form.typical(run())
        assert seams_for(fault.model_dump(mode="json")).within_step == (), fault


def test_every_seam_of_the_step_makes_it_eager() -> None:
    cuda = torch.device("cuda:0")
    for name in ("edit_model", "edit_optimizer", "attention", "rotary", "loss", "clip", "finite",
                 "weigh"):  # fmt: skip
        seams = Seams(**{name: lambda *_: None})
        assert seams.within_step == (name,)
        assert why_eager(run(), cuda, seams) == "a fault lies within the step"
    assert CLEAN.within_step == ()


def test_what_is_not_captured_is_tried_eager_on_a_gpu_with_all_it_continues() -> None:
    kept = run(checkpoint="epoch", validate_every=4)
    resumed = run(resume={"run": kept.model_dump(mode="json", exclude_unset=True)})
    slow, frozen = FAULT_NAMES["slow_step"], FAULT_NAMES["frozen_weights"]
    assert slow.carrier(resumed) is resumed
    changed = frozen.carrier(resumed)
    assert isinstance(changed, PretrainRun)
    assert changed.resume is not None
    assert (changed.execution, changed.resume.run.execution) == ("eager", "eager")
    on_cpu = run(device="cpu")
    assert frozen.carrier(on_cpu) is on_cpu


CONTRACT = """
contract_id: C-CAPTURED
version: 1.0.0
runs:
  gpu:
    driver: pretrain
    device: cuda:0
    model: llama-1m
    data: {corpus: python-stdlib}
    seq_len: 32
    batch_size: 2
    steps: 40
    optimizer: {warmup_steps: 2}
gates:
  - id: GATE-1
    run: gpu
    checks: [{kind: descent, metric: train_loss}, {kind: exit_status, expect: COMPLETED}]
    verdict: pending
falsification_tests:
  - id: FALSIFY-FROZEN
    binds_to: GATE-1
    inject: {fault: frozen_weights}
    expect: {verdict: fail, check: descent}
  - id: FALSIFY-ENDED
    binds_to: GATE-1
    inject: {fault: data_runs_out, step: 4}
    expect: {verdict: fail, check: exit_status}
"""


def test_a_falsifier_of_what_is_not_captured_has_an_eager_clean_control() -> None:
    contract = contract_from(CONTRACT, "contracts/x.yaml", Caps())
    frozen, ended = contract.falsifiers
    (gate,) = contract.gates
    assert frozen.gate is not None
    assert ended.gate is not None
    (eager,) = executions(frozen.gate)["gpu"]
    (own,) = executions(ended.gate)["gpu"]
    assert isinstance(eager.run, PretrainRun)
    assert eager.run.execution == "eager"
    assert own.key == executions(gate)["gpu"][0].key != eager.key

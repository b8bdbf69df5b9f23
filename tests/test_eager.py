"""Which runs take the eager step, asked without torch, and what is imported for them beforehand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_nvml import NVMLError
from test_captured_step import run

import pytest_gates.model.eager
from pytest_gates.evidence import Gpu
from pytest_gates.model.config import ForwardRun
from pytest_gates.model.eager import HOPPER, eager_as_declared, eager_on
from pytest_gates.run.entry import imports_of
from pytest_gates.run.gpus import Gpus

COMPILER = ("pytest_gates.model.preload_compiler",)


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(pytest_gates.model.eager, "why_no_triton", lambda: None)
    monkeypatch.setattr(pytest_gates.model.eager, "_triton_version", lambda: (3, 6))
    return monkeypatch


def test_a_fused_run_needs_no_compiler_and_every_other_training_run_does(
    triton: pytest.MonkeyPatch,
) -> None:
    assert imports_of(run(), HOPPER) == ()
    assert imports_of(run(), (8, 0)) == COMPILER
    assert imports_of(run(device="cpu"), None) == COMPILER
    assert imports_of(run(execution="eager"), HOPPER) == COMPILER
    assert imports_of(run(micro_batches=2), HOPPER) == COMPILER
    triton.setattr(pytest_gates.model.eager, "_triton_version", lambda: (3, 5))
    assert imports_of(run(), HOPPER) == COMPILER


def test_what_asks_for_cuda_that_is_hidden_from_it_needs_nothing(
    triton: pytest.MonkeyPatch,
) -> None:
    """It is refused before there is a model, and may be the first that is asked for."""
    assert imports_of(run(host={"cuda": "hidden"}), None) == ()
    assert imports_of(run(host={"cuda": "hidden"}, device="auto"), None) == COMPILER
    assert imports_of(run(host={"cuda": "hidden"}, device="cpu"), None) == COMPILER


def test_why_no_gpu_of_a_kind_carries_the_fused_step(triton: pytest.MonkeyPatch) -> None:
    assert eager_on(HOPPER) is None
    assert eager_on((10, 0)) == eager_on(None) == "not on Hopper"
    triton.setattr(pytest_gates.model.eager, "_triton_version", lambda: (3, 5))
    assert eager_on(HOPPER) == "triton is older than 3.6"
    triton.setattr(pytest_gates.model.eager, "why_no_triton", lambda: "triton is not there")
    assert eager_on(HOPPER) == "triton is not there"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"execution": "eager"}, "the run asks for it"),
        ({"dtype": "fp32"}, "not in bf16"),
        ({"micro_batches": 2}, "gradient accumulation"),
        ({"stimulus": {"kind": "nan", "step": 3}}, "the stimulus changes the loss"),
    ],
)
def test_what_a_run_declares_may_rule_the_fused_step_out(
    settings: dict[str, object], reason: str | None
) -> None:
    assert eager_as_declared(run(**settings)) == reason


def test_forward_runs_need_the_compiler_only_where_blocks_are_compiled() -> None:
    plain = {"driver": "forward", "device": "cpu", "model": "llama-1m"}
    assert imports_of(ForwardRun.model_validate(plain), None) == ()
    assert imports_of(ForwardRun.model_validate({**plain, "compiled": True}), None) == COMPILER


def test_a_gpu_that_does_not_tell_its_compute_capability_has_none() -> None:
    class Mute:
        NVMLError = NVMLError

        def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
            return uuid

        def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
            raise NVMLError("Not Supported")

    assert Gpus(Mute()).capability(Gpu("NVIDIA H200", "GPU-1", 143_771)) is None


@pytest.mark.parametrize(("module", "has"), [("preload", False), ("preload_compiler", True)])
def test_the_forkserver_begins_without_the_compiler(module: str, has: bool) -> None:
    code = f"import sys, pytest_gates.model.{module}; print('torch._dynamo' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == f"{has}\n"

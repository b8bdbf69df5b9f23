from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_nvml import Device, FakeNvml

from pytest_gates.evidence import Gpu
from pytest_gates.model.config import ForwardRun, Host, ProbeRun, RecordedFile, RecordedRun, Run
from pytest_gates.run.gpus import Gpus, find_gpus
from pytest_gates.run.host import capability, cpu_ceiling, highest_clock_hz, host_info

NO_GPU = Gpus(None, unavailable="NVML is not there: none in this test")
VISIBLE = "CUDA devices visible"


def forward(device: str, cuda: str = "any") -> ForwardRun:
    host = Host.model_validate({"cuda": cuda})
    return ForwardRun(driver="forward", device=device, model="llama-1m", host=host, prompt="x")


def cpuinfo(flags: str, cores: int = 2, threads: int = 2, sockets: int = 1) -> str:
    ids = [(s, c) for s in range(sockets) for c in range(cores) for _ in range(threads)]
    return "".join(
        f"processor\t: {n}\nphysical id\t: {s}\ncore id\t\t: {c}\nflags\t\t: fpu {flags}\n\n"
        for n, (s, c) in enumerate(ids)
    )


@pytest.mark.parametrize(
    ("text", "cores", "flops"),
    [
        (cpuinfo("sse2"), 2, 2 * 3e9 * 8),
        (cpuinfo("sse2 fma avx2"), 2, 2 * 3e9 * 32),
        (cpuinfo("sse2 fma avx512f", cores=8, sockets=2), 16, 16 * 3e9 * 64),
        (cpuinfo("sse2 fma avx512f avx512_bf16"), 2, 2 * 3e9 * 128),
        (cpuinfo("sse2 fma avx512f avx512_bf16 amx_bf16 amx_tile"), 2, 2 * 3e9 * 1024),
        ("processor\t: 0\nFeatures\t: fp asimd\n\nprocessor\t: 1\nFeatures\t: fp asimd\n", 2,
         2 * 3e9 * 32),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", 1, 3e9 * 128),
        ("processor\t: 0\nisa\t: rv64imafdc\n", 1, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_the_ceiling_of_a_cpu(text: str, cores: int | None, flops: float | None) -> None:
    assert cpu_ceiling(text, 3e9) == (cores, flops)


def test_this_machine_has_a_ceiling_it_cannot_exceed() -> None:
    info = host_info(None, None, "2.13.0", None)
    assert info.cpu_cores is not None
    assert 1 <= info.cpu_cores <= (os.cpu_count() or 1)
    assert 1e9 <= highest_clock_hz() < 1e10
    assert info.torch == "2.13.0"
    assert info.python == platform.python_version()


def test_the_description_names_no_host_user_or_folder() -> None:
    text = repr(host_info(Gpu("NVIDIA H200", "GPU-1", 143771), "580", "2.13.0", "13.0"))
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert f"'{getpass.getuser()}'" not in text
    assert "/" not in text


@pytest.mark.parametrize(
    "run",
    [
        forward("cpu"),
        forward("auto"),
        forward("cuda", "hidden"),
        forward("cuda:3", "hidden"),
        ProbeRun(driver="probe"),
        RecordedRun(driver="recorded", files=(RecordedFile(path="a.jsonl", format="jsonl"),)),
    ],
)
def test_what_runs_anywhere(run: Run) -> None:
    def ask() -> tuple[str, int]:
        raise AssertionError("torch is asked only where there is a GPU")

    assert capability(run, NO_GPU, {}, ask) is None


@pytest.mark.parametrize(
    ("run", "devices", "environ", "torch", "why"),
    [
        (forward("cuda:0"), 1, {}, (VISIBLE, 1), None),
        (forward("cuda:1"), 2, {}, (VISIBLE, 2), None),
        (forward("cpu", "visible"), 1, {}, (VISIBLE, 1), None),
        (ProbeRun(driver="probe", host=Host(cuda="visible")), 0, {}, (VISIBLE, 0),
         "no NVIDIA GPU on this machine"),
        (forward("cuda"), 0, {}, (VISIBLE, 0), "no NVIDIA GPU on this machine"),
        (forward("cuda:1"), 1, {}, (VISIBLE, 1),
         "cuda:1 is not there: CUDA_VISIBLE_DEVICES shows 1 CUDA device"),
        (forward("cuda"), 2, {"CUDA_VISIBLE_DEVICES": ""}, (VISIBLE, 0),
         "cuda:0 is not there: CUDA_VISIBLE_DEVICES shows 0 CUDA devices"),
        (forward("cuda"), 1, {}, ("built without CUDA", 0),
         "cuda:0 is not there: torch (built without CUDA) sees 0 CUDA devices"),
    ],
)  # fmt: skip
def test_what_needs_a_gpu(
    run: Run,
    devices: int,
    environ: dict[str, str],
    torch: tuple[str, int],
    why: str | None,
) -> None:
    gpus = find_gpus(FakeNvml(*(Device(uuid=f"GPU-{n}") for n in range(devices))))
    assert capability(run, gpus, environ, lambda: torch) == why


def test_without_nvml_the_reason_is_told() -> None:
    ask: Callable[[], tuple[str, int]] = lambda: (VISIBLE, 1)  # noqa: E731 - a stand-in
    expected = "no NVIDIA GPU on this machine (NVML is not there: none in this test)"
    assert capability(forward("cuda"), NO_GPU, {}, ask) == expected

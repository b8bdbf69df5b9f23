from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_nvml import Device, FakeNvml
from hypothesis import given
from hypothesis import strategies as st

from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import CONTAMINATING_REASONS, Allocation, Sample, Witness
from pytest_gates.model.config import ExecutedRun, ForwardRun, Host, ProbeRun
from pytest_gates.readers.witness_csv import read_witness, write_witness
from pytest_gates.run.gpus import NoGpuError, find_gpus
from pytest_gates.run.witness import ANCHOR_MIB, Observer, told_allocations

RUN = 5_000_001  # above the largest pid that Linux gives, 2^22
FOREIGN = 5_000_002


def observe(nvml: FakeNvml, pid: int = RUN, adopts: int | None = None) -> Witness:
    observer = Observer(nvml, nvml.devices[0], pid, time.monotonic_ns(), adopts)
    begun = nvml.looks
    observer.start()
    while nvml.looks < begun + 3:
        time.sleep(0.005)
    return observer.stop()


def test_a_sample_holds_all_that_nvml_tells() -> None:
    device = Device(processes={RUN: 6636, FOREIGN: 100}, utilisation={RUN: 88, FOREIGN: 3})
    witness = observe(FakeNvml(device))
    assert witness.unavailable is None
    assert witness.gaps == {}
    first = witness.samples[0]
    assert 0 <= first.at_ms < witness.samples[-1].at_ms
    assert first == Sample(
        at_ms=first.at_ms,
        pid=RUN,
        used_mib=6636.0,
        device_used_mib=500.0,
        sm_util_pct=88.0,
        util_pct=97.0,
        sm_clock_mhz=1980.0,
        power_w=623.456,
        temperature_c=61.0,
        reasons=0x04,
        foreign_pids=1,
    )


class Time(threading.Event):
    """A clock that passes while somebody waits, and an event that is set after so many waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.now_ns, self.left = 0, waits

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now_ns += round(timeout * 1e9)
        self.left -= 1
        if self.left == 0:
            self.set()
        return self.is_set()


def test_it_samples_twenty_times_a_second_and_keeps_to_the_grid_after_a_late_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = Time(waits=6)
    lasts_ms = iter([3, 30, 120, 3, 3, 3])

    def used_mib() -> float:
        passes.now_ns += next(lasts_ms) * 1_000_000
        return 0.0

    threads = SimpleNamespace(Event=lambda: passes, Thread=threading.Thread)
    monkeypatch.setattr("pytest_gates.run.witness.time", passes)
    monkeypatch.setattr("pytest_gates.run.witness.threading", threads)
    observer = Observer(FakeNvml(), Device(used_mib=used_mib), RUN, 0)
    observer.start()
    threading.Event.wait(passes, 60)
    assert [sample.at_ms for sample in observer.stop().samples] == [0, 50, 100, 250, 300, 350]


def test_what_nvml_refuses_is_none_and_the_reason_is_kept() -> None:
    broken = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetProcessUtilization")
    witness = observe(FakeNvml(Device(processes={RUN: 1}), broken=broken))
    assert {sample.power_w for sample in witness.samples} == {None}
    assert witness.gaps == {
        "power_w": "nvmlDeviceGetPowerUsage Not Supported",
        "sm_util_pct": "nvmlDeviceGetProcessUtilization Not Supported",
    }


def test_everything_may_be_refused() -> None:
    every = tuple(name for name in dir(FakeNvml) if name.startswith("nvmlDevice"))
    witness = observe(FakeNvml(Device(processes={RUN: 1}), broken=every))
    assert witness.samples
    assert witness.gaps.keys() == {field.name for field in fields(Sample)} - {"at_ms"}
    assert all("Not Supported" in why for name, why in witness.gaps.items() if name != "pid")


def test_an_old_driver_knows_only_the_second_version_of_the_process_list() -> None:
    broken = (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
    )
    witness = observe(FakeNvml(Device(processes={RUN: 6636}), broken=broken))
    assert {sample.used_mib for sample in witness.samples} == {6636.0}


def test_memory_that_nvml_does_not_tell() -> None:
    witness = observe(FakeNvml(Device(processes={RUN: None})))
    assert {(sample.pid, sample.used_mib) for sample in witness.samples} == {(RUN, None)}
    assert witness.gaps["used_mib"] == "NVML does not tell the memory of a process here"


def test_a_process_in_both_lists_is_counted_once() -> None:
    device = Device(processes={RUN: 700, FOREIGN: 5}, graphics={RUN: None, FOREIGN: 5})
    sample = observe(FakeNvml(device)).samples[0]
    assert (sample.used_mib, sample.foreign_pids) == (700.0, 1)


def test_a_run_that_is_not_on_the_device() -> None:
    witness = observe(FakeNvml(Device(processes={os.getpid(): 900})))
    found = {(sample.pid, sample.used_mib, sample.foreign_pids) for sample in witness.samples}
    assert found == {(None, None, 1)}
    assert witness.gaps["pid"] == f"NVML listed no process {RUN} on the device"


def test_pids_of_another_namespace_are_not_called_foreign() -> None:
    witness = observe(FakeNvml(Device(processes={FOREIGN: 900})))
    assert {sample.foreign_pids for sample in witness.samples} == {None}
    assert "another PID namespace" in witness.gaps["foreign_pids"]


def test_allocations_are_differences_of_settled_levels() -> None:
    level = 0.0
    nvml = FakeNvml(Device(used_mib=lambda: level))
    observer = Observer(nvml, nvml.devices[0], RUN, time.monotonic_ns())
    observer.start()
    told = told_allocations((64, 160))
    # The first anchor's level still holds 2 MiB that the allocator had cached.
    for mib, base in zip(told, (502.0, 500.0, 500.0, 500.0), strict=True):
        level = base + mib
        observer.held(mib)
    assert observer.stop().allocations == (Allocation(64, 64.0), Allocation(160, 160.0))


def test_a_level_is_read_once_it_has_settled() -> None:
    def rising() -> float:
        return 100.0 * min(1.0, (time.monotonic() - begun) / 0.1)

    nvml = FakeNvml(Device(used_mib=lambda: 0.0))
    observer = Observer(nvml, nvml.devices[0], RUN, time.monotonic_ns())
    observer.start()
    observer.held(ANCHOR_MIB)
    begun = time.monotonic()
    nvml.devices[0].used_mib = rising
    observer.held(ANCHOR_MIB + 100)
    assert observer.stop().allocations == (Allocation(100, 100.0),)


def test_a_level_that_never_settles_is_read_once_more_when_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process can be held up for longer than it would have waited."""
    passed_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: passed_s[0], monotonic_ns=time.monotonic_ns,
                            sleep=lambda _: passed_s.append(passed_s.pop() + 5.0))  # fmt: skip
    nvml = FakeNvml(Device(used_mib=lambda: 500.0 if passed_s[0] < 7 else 600.0))
    observer = Observer(nvml, nvml.devices[0], RUN, time.monotonic_ns())
    monkeypatch.setattr("pytest_gates.run.witness.time", clock)
    observer.held(ANCHOR_MIB)
    observer.held(ANCHOR_MIB + 100)
    observer.start()
    assert observer.stop().allocations == (Allocation(100, 100.0),)


def test_a_run_that_allocates_nothing_shows_nothing() -> None:
    nvml = FakeNvml(Device())
    observer = Observer(nvml, nvml.devices[0], RUN, time.monotonic_ns())
    observer.start()
    for mib in told_allocations((64,)):
        observer.held(mib)
    assert observer.stop().allocations == (Allocation(64, 0.0),)
    assert told_allocations(()) == ()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "ABC"),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, "CA"),
        ({"CUDA_VISIBLE_DEVICES": "1,9,0"}, "B"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-22, GPU-1"}, "BA"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "MIG-77"}, ""),
    ],
)
def test_the_gpus_that_a_run_sees(environ: dict[str, str], expected: str) -> None:
    uuids = {"A": "GPU-1111", "B": "GPU-2222", "C": "GPU-3333"}
    gpus = find_gpus(FakeNvml(*(Device(uuid=uuid) for uuid in uuids.values())))
    assert [gpu.uuid for gpu in gpus.visible(environ)] == [uuids[name] for name in expected]


def test_different_gpus_need_an_order() -> None:
    nvml = FakeNvml(Device("NVIDIA T4", "GPU-1"), Device("NVIDIA H200", "GPU-2"))
    gpus = find_gpus(nvml)
    with pytest.raises(NoGpuError, match="CUDA_DEVICE_ORDER is not PCI_BUS_ID"):
        gpus.visible({})
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": "GPU-2"}) == (gpus.all[1],)
    assert gpus.visible({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == gpus.all


def test_with_mig_an_index_means_nothing() -> None:
    gpus = find_gpus(FakeNvml(Device(mig=True)))
    with pytest.raises(NoGpuError, match="MIG is on: name the instance by its UUID"):
        gpus.visible({"CUDA_VISIBLE_DEVICES": "0"})


def test_a_machine_without_nvml() -> None:
    gpus = find_gpus(FakeNvml(broken=("nvmlInit",)))
    assert gpus.all == ()
    assert gpus.unavailable == "NVML is not there: nvmlInit Not Supported"


def forward(device: str, host: Host | None = None) -> ForwardRun:
    return ForwardRun(
        driver="forward", device=device, model="llama-1m", host=host or Host(), prompt="x"
    )


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (forward("cpu"), "the run asks for no GPU"),
        (ProbeRun(driver="probe"), "the run asks for no GPU"),
        (forward("cuda", Host(cuda="hidden")), "CUDA is hidden from the run"),
        (forward("cuda:1"), "cuda:1 asks for cuda:1, 1 GPUs visible"),
    ],
)
def test_why_nobody_watches(run: ExecutedRun, reason: str) -> None:
    with pytest.raises(NoGpuError) as caught:
        find_gpus(FakeNvml(Device())).of(run, {})
    assert str(caught.value) == reason


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "auto"])
def test_the_first_gpu_has_three_names(device: str) -> None:
    gpus = find_gpus(FakeNvml(Device()))
    assert gpus.of(forward(device), {}) == gpus.all[0]


numbers = st.none() | st.floats(allow_nan=False)
counts = st.none() | st.integers(0, 2**40)
samples = st.builds(
    Sample,
    at_ms=st.floats(allow_nan=False),
    pid=counts,
    used_mib=numbers,
    device_used_mib=numbers,
    sm_util_pct=numbers,
    util_pct=numbers,
    sm_clock_mhz=numbers,
    power_w=numbers,
    temperature_c=numbers,
    reasons=counts,
    foreign_pids=counts,
)
witnesses = st.builds(
    Witness,
    samples=st.lists(samples, max_size=4).map(tuple),
    allocations=st.lists(
        st.builds(Allocation, st.integers(1, 10**6), numbers.filter(lambda x: x != math.inf)),
        max_size=3,
    ).map(tuple),
    unavailable=st.none() | st.text(),
    gaps=st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3),
)


@given(witness=witnesses)
def test_a_written_witness_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, witness: Witness
) -> None:
    path = tmp_path_factory.mktemp("csv") / "witness.csv"
    write_witness(path, witness)
    assert read_witness(path) == witness


def test_the_columns_are_those_of_nvidia_smi(tmp_path: Path) -> None:
    path = tmp_path / "witness.csv"
    sample = Sample(at_ms=50.5, pid=7, used_mib=6636.0, power_w=623.456, reasons=0x20)
    write_witness(path, Witness((sample,)))
    comment, header, line = path.read_text().splitlines()
    assert comment == '# {"allocations": [], "gaps": {}, "unavailable": null}'
    assert header == (
        "at_ms,pid,used_gpu_memory [MiB],memory.used [MiB],process.utilization.sm [%],"
        "utilization.gpu [%],clocks.current.sm [MHz],power.draw [W],temperature.gpu,"
        "clocks_event_reasons.active,foreign_pids"
    )
    missing = "[N/A]"
    assert line.split(",") == [
        "50.5", "7", "6636.0", missing, missing, missing, missing, "623.456", missing,
        "0x0000000000000020", missing,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda text: "", ":1: "),
        (lambda text: "[1]\n" + text, ":1: "),
        (lambda text: "# " + "[" * 100_000 + "\n", ":1: "),
        (lambda text: text.replace("at_ms", "when"), ":2: "),
        (lambda text: text.replace("50.5", "soon"), ":3: "),
        (lambda text: text.replace("50.5,", ""), ":3: "),
        (lambda text: text.replace("50.5", "5" * 200_000), ":3: "),
        (lambda text: text.replace("at_ms", "x" * 200_000), ":2: "),
        (lambda text: text.replace('"gaps": {}', '"gaps": [1]'), ":1: "),
        (lambda text: text.replace('"allocations": []', '"allocations": [["a", 1]]'), ":1: "),
        (lambda text: text.replace('"unavailable": null', '"unavailable": 7'), ":1: "),
    ],
)
def test_a_malformed_witness_is_refused_with_its_place(
    tmp_path: Path, damage: Callable[[str], str], place: str
) -> None:
    path = tmp_path / "witness.csv"
    write_witness(path, Witness((Sample(at_ms=50.5, pid=7, used_mib=1.0),)))
    path.write_text(damage(path.read_text()))
    with pytest.raises(EvidenceError, match=f"witness.csv{place}"):
        read_witness(path)


def test_a_power_cap_is_no_contamination() -> None:
    import pynvml

    held_back = (
        pynvml.nvmlClocksEventReasonHwSlowdown,
        pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        pynvml.nvmlClocksEventReasonHwThermalSlowdown,
        pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    )
    assert sum(held_back) == CONTAMINATING_REASONS
    assert not CONTAMINATING_REASONS & pynvml.nvmlClocksEventReasonSwPowerCap


def test_a_process_that_is_gone_does_not_exist_here() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    witness = observe(FakeNvml(Device(processes={process.pid: 1})))
    assert {sample.foreign_pids for sample in witness.samples} == {None}


def test_what_descends_from_the_run_is_the_run() -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); input()"
    with (
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as parent,
        subprocess.Popen(["sleep", "60"]) as other,
    ):
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            processes: dict[int, int | None] = {parent.pid: 300, child: 5000, other.pid: 70}
            device = Device(processes=processes, utilisation={parent.pid: 1, child: 60})
            nvml = FakeNvml(device)
            first = observe(nvml, pid=parent.pid).samples[0]
            assert (first.pid, first.used_mib, first.foreign_pids) == (parent.pid, 5300.0, 1)
            assert first.sm_util_pct == 61.0
            # A child alone on the device is the run's all the same.
            del processes[parent.pid]
            assert observe(nvml, pid=parent.pid).samples[0].used_mib == 5000.0
            # Whoever adopts the run's orphans makes them the run's.
            adopted = observe(nvml, parent.pid, adopts=os.getpid())
            assert adopted.samples[0].foreign_pids == 0
        finally:
            os.kill(child, 9)
            other.kill()
            parent.kill()

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_gates.errors import RunError
from pytest_gates.evidence import Gpu
from pytest_gates.run.device_lock import cpu_lock, gpu_lock, lock_folder

H200 = Gpu("NVIDIA H200", "GPU-1111", 143771)
OTHER = Gpu("NVIDIA H200", "GPU-2222", 143771)

HOLD = """
import sys, time
from pathlib import Path
from pytest_gates.evidence import Gpu
from pytest_gates.run.device_lock import cpu_lock, gpu_lock
folder = Path(sys.argv[1])
gpu = Gpu("NVIDIA H200", "GPU-1111", 143771)
with gpu_lock([gpu], name="cuda:0", running="GATE-X", timeout_s=1, folder=folder):
    with cpu_lock(999, running="GATE-X", timeout_s=1, folder=folder):
        print("held", flush=True)
        time.sleep(600)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the GPU and every CPU."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_held_gpu_names_its_holder(tmp_path: Path) -> None:
    with (
        holder(tmp_path) as process,
        pytest.raises(RunError) as caught,
        gpu_lock([H200], name="cuda:0", running="GATE-Y", timeout_s=0.1, folder=tmp_path),
    ):
        pass
    assert str(caught.value).startswith(
        "cuda:0 (NVIDIA H200) was not free within 0.1 s: it is held by "
        f"pid {process.pid} running GATE-X since 20"
    )


def test_another_gpu_is_free(tmp_path: Path) -> None:
    with (
        holder(tmp_path),
        gpu_lock([OTHER], name="cuda:1", running="GATE-Y", timeout_s=0.1, folder=tmp_path),
    ):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        with (
            gpu_lock([H200], name="cuda:0", running="GATE-Y", timeout_s=0.5, folder=tmp_path),
            cpu_lock(1, running="GATE-Y", timeout_s=0.5, folder=tmp_path),
        ):
            pass


def test_one_process_waits_for_itself_too(tmp_path: Path) -> None:
    with (
        gpu_lock([H200], name="cuda:0", running="GATE-X", timeout_s=0.1, folder=tmp_path),
        pytest.raises(RunError, match=f"pid {os.getpid()} running GATE-X"),
        gpu_lock([H200], name="cuda:0", running="GATE-Y", timeout_s=0.1, folder=tmp_path),
    ):
        pass
    with gpu_lock([H200], name="cuda:0", running="GATE-Y", timeout_s=0.1, folder=tmp_path):
        pass


def test_cpu_runs_share_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    with (
        cpu_lock(2, running="GATE-X", timeout_s=0.1, folder=tmp_path),
        cpu_lock(1, running="GATE-Y", timeout_s=0.1, folder=tmp_path),
        pytest.raises(
            RunError, match=r"cpu \(1 of 3 threads\) .* running GATE-X .* running GATE-Y"
        ),
        cpu_lock(1, running="GATE-Z", timeout_s=0.1, folder=tmp_path),
    ):
        pass


def test_too_few_cpus_are_not_taken_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    with cpu_lock(2, running="GATE-X", timeout_s=0.1, folder=tmp_path):
        with (
            pytest.raises(RunError, match="2 of 3"),
            cpu_lock(2, running="GATE-Y", timeout_s=0.1, folder=tmp_path),
        ):
            pass
        with cpu_lock(1, running="GATE-Z", timeout_s=0.1, folder=tmp_path):
            pass


def test_more_threads_than_cpus_take_them_all(tmp_path: Path) -> None:
    with (
        cpu_lock(999, running="GATE-X", timeout_s=0.1, folder=tmp_path),
        pytest.raises(RunError),
        cpu_lock(1, running="GATE-Y", timeout_s=0.1, folder=tmp_path),
    ):
        pass


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        waited = []

        class Ended(threading.Event):
            """Asked between two tries; the third one finds the lock free."""

            def wait(self, timeout: float | None = None) -> bool:
                waited.append(timeout)
                if len(waited) == 2:
                    process.kill()
                    process.wait()
                return False

        with gpu_lock([H200], name="cuda:0", running="GATE-Y", timeout_s=600, folder=tmp_path,
                      ended=Ended()):  # fmt: skip
            assert len(waited) == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match="cannot be made for the locks"),
        cpu_lock(1, running="GATE-X", timeout_s=0.1, folder=tmp_path / "file" / "locks"),
    ):
        pass


def test_each_user_has_locks_of_their_own() -> None:
    assert str(os.getuid()) in lock_folder().name

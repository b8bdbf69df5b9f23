"""Staging folders: their owner's while it lives, nobody's when it is dead."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from pytest_gates.run import staging as module
from pytest_gates.run.staging import Staging, sweep

OWN = """
import sys, time
from pathlib import Path
from pytest_gates.run.staging import Staging
staging = Staging(Path(sys.argv[1]))
print(staging.make(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def owned(tmp_path: Path) -> tuple[Path, subprocess.Popen[str]]:
    """A folder that another process owns, and that process."""
    command = [sys.executable, "-c", OWN, str(tmp_path / "staging")]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        return Path(owner.stdout.readline().strip()), owner


def test_a_killed_owners_folder_is_removed_by_the_next_one_and_a_living_ones_is_not(
    owned: tuple[Path, subprocess.Popen[str]],
) -> None:
    folder, owner = owned
    (folder / "out").mkdir()
    (folder / "out" / "telemetry-0.jsonl").write_text("half a li")
    first = Staging(folder.parent)
    assert first.make().is_dir()
    assert folder.is_dir()
    first.close()
    owner.kill()
    owner.wait()
    second = Staging(folder.parent)
    assert second.make().is_dir()
    assert not folder.exists()
    second.close()


def test_a_folder_that_somebody_sweeps_while_it_is_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two calls of the one who makes it."""
    flock, swept = fcntl.flock, []

    def sweep_first(file: object, operation: int) -> None:
        if not swept:
            swept.append(True)
            sweep(tmp_path)
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    staging = Staging(tmp_path)
    made = staging.make()
    sweep(tmp_path)
    assert made.is_dir()
    assert [one.name for one in made.iterdir()] == ["owner.lock"]
    staging.close()


def test_a_folder_is_its_owners_until_it_lets_go(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    made = staging.make()
    sweep(tmp_path)
    assert made.is_dir()
    staging.close()
    sweep(tmp_path)
    assert not made.exists()


def test_a_folder_that_is_just_being_made_is_left_alone_and_an_old_one_is_not(
    tmp_path: Path,
) -> None:
    young, old = tmp_path / "young", tmp_path / "old"
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    sweep(tmp_path)
    assert young.is_dir()
    assert not old.exists()


def test_a_sweep_between_the_making_of_a_folder_and_its_lock_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = module.fcntl.flock, []

    def sweep_first(file: BinaryIO, how: int) -> None:
        if not swept:
            swept.append(True)
            sweep(tmp_path)  # another session's
        lock(file, how)

    monkeypatch.setattr(module.fcntl, "flock", sweep_first)
    staging = Staging(tmp_path)
    made = staging.make()
    assert swept
    assert made.is_dir()
    sweep(tmp_path)
    assert made.is_dir()
    staging.close()

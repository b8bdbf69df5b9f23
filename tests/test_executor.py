"""Executions: each once a session, whoever asks; what the cache keeps, and what it drops."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock
from sealed import seal_run, small_run, step_lines

from pytest_gates.errors import RunError
from pytest_gates.evidence_store import read_evidence
from pytest_gates.model.config import PretrainRun
from pytest_gates.model.faults import SlowStep
from pytest_gates.run.bench import Bench
from pytest_gates.run.cache import prune
from pytest_gates.run.drivers import DRIVERS
from pytest_gates.run.executor import Executor
from pytest_gates.run.plan import Execution
from pytest_gates.settings import Settings


@dataclass
class Driver:
    """Stands in for a training run: seals what one would have left, and counts."""

    executed: list[Execution] = field(default_factory=list)
    error: Exception | None = None
    during: Callable[[], None] = lambda: None

    def __call__(self, bench: Bench, execution: Execution, holder: str) -> list[Path]:
        self.executed.append(execution)
        self.during()
        if self.error is not None:
            raise self.error
        assert isinstance(execution.run, PretrainRun)
        sealed = seal_run(
            bench.sealed,
            run=execution.run,
            fault=execution.fault_data,
            repetition=execution.repetition,
            scratch=bench.settings.root / f"scratch-{len(self.executed)}",
            lines=step_lines(2),
        )
        return [sealed]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(DRIVERS, "pretrain", driver)
    return driver


def an_executor(root: Path, session: str = "one", **settings: float) -> Executor:
    configured = Settings(root=root, session=session, **settings)  # type: ignore[arg-type]
    return Executor(configured, lambda location: read_evidence(root, location))


def test_one_execution_serves_all_gates_of_a_session_and_no_other_session(
    tmp_path: Path, driver: Driver
) -> None:
    executor = an_executor(tmp_path)
    first = executor.obtain(Execution(small_run()), "GATE-1")
    assert executor.obtain(Execution(small_run()), "GATE-2") == first
    assert len(driver.executed) == 1
    # A session that begins later asks anew.
    an_executor(tmp_path, "two").obtain(Execution(small_run()), "GATE-1")
    assert len(driver.executed) == 2


def test_processes_of_one_session_wait_for_whoever_executes(tmp_path: Path, driver: Driver) -> None:
    # Executors share nothing but the session's folder, as the workers of xdist do.
    driver.during = lambda: time.sleep(0.2)
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                an_executor(tmp_path).obtain(Execution(small_run()), "GATE").id
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(driver.executed) == 1
    assert len(found) == 4
    assert len(set(found)) == 1


def test_repetition_fault_run_and_group_make_another_execution(
    tmp_path: Path, driver: Driver
) -> None:
    executor = an_executor(tmp_path)
    run = small_run()
    many = [
        Execution(run),
        Execution(run, repetition=1),
        Execution(run, SlowStep(fault="slow_step", ms=1)),
        Execution(run, group="a"),
        Execution(small_run(seed=1)),
    ]
    for one in (*many, *many):
        executor.obtain(one, "GATE")
    assert driver.executed == many
    # What is declared at its default is declared the same.
    assert Execution(small_run(seed=0)).key == Execution(run).key


def test_a_failure_is_told_to_every_gate_of_the_session_and_tried_again_in_the_next(
    tmp_path: Path, driver: Driver
) -> None:
    driver.error = RunError("cuda:0 was not free within 3600 s")
    executor = an_executor(tmp_path)
    for _ in range(3):
        with pytest.raises(RunError, match="was not free"):
            executor.obtain(Execution(small_run()), "GATE")
    assert len(driver.executed) == 1
    driver.error = None
    assert an_executor(tmp_path, "two").obtain(Execution(small_run()), "GATE").status == "COMPLETED"


def test_waiting_for_another_process_ends(tmp_path: Path, driver: Driver) -> None:
    execution = Execution(small_run())
    locks = tmp_path / ".pytest_gates" / "locks"
    locks.mkdir(parents=True)
    with (
        FileLock(locks / f"run-{execution.key[:24]}.lock"),
        pytest.raises(RunError, match=r"another process is executing pretrain .* gates_lock_timeo"),
    ):
        an_executor(tmp_path, lock_timeout_s=0.05).obtain(execution, "GATE")
    assert driver.executed == []


def test_git_sees_nothing_of_the_cache(tmp_path: Path, driver: Driver) -> None:
    an_executor(tmp_path).obtain(Execution(small_run()), "GATE")
    ignored = (tmp_path / ".pytest_gates" / ".gitignore").read_text(encoding="utf-8")
    assert ignored.splitlines()[-1] == "*"


# --- the cache ---------------------------------------------------------------------------------


def evidence_in(cache: Path, name: str, age_s: float, size: int = 1000) -> Path:
    folder = cache / "evidence" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(bytes(size))
    then = time.time() - age_s
    os.utime(folder, (then, then))
    return folder


def used_by(cache: Path, session: str, evidence: Path, age_s: float = 0) -> Path:
    marker = cache / "sessions" / session / f"{evidence.name}.json"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"location": f".pytest_gates/evidence/{evidence.name}"}))
    then = time.time() - age_s
    os.utime(marker.parent, (then, then))
    return marker


def test_the_oldest_evidence_goes_first_and_only_as_much_as_needed(tmp_path: Path) -> None:
    old, middle, new = (
        evidence_in(tmp_path, name, age) for name, age in (("a", 30), ("b", 20), ("c", 10))
    )
    prune(tmp_path, 3000)
    assert old.is_dir()
    prune(tmp_path, 2000)
    assert (old.is_dir(), middle.is_dir(), new.is_dir()) == (False, True, True)


def test_what_a_session_uses_stays_however_old_and_large(tmp_path: Path) -> None:
    used = evidence_in(tmp_path, "used", 1000, size=5000)
    other = evidence_in(tmp_path, "other", 10)
    used_by(tmp_path, "somebody-elses", used)
    prune(tmp_path, 100)
    assert used.is_dir()
    assert not other.exists()


def test_sessions_of_other_days_and_half_written_evidence_of_the_dead_go(tmp_path: Path) -> None:
    evidence = evidence_in(tmp_path, "a", 10)
    old = used_by(tmp_path, "of-yesterday", evidence, age_s=90_000)
    new = used_by(tmp_path, "of-today", evidence)
    dead = evidence_in(tmp_path, ".staging-dead", 90_000)
    alive = evidence_in(tmp_path, ".staging-alive", 10)
    prune(tmp_path, 10_000)
    assert (old.exists(), new.exists()) == (False, True)
    assert (dead.exists(), alive.exists()) == (False, True)


def test_an_execution_prunes_the_cache_but_never_itself(tmp_path: Path, driver: Driver) -> None:
    left = evidence_in(tmp_path / ".pytest_gates", "left-by-others", 50)
    executor = an_executor(tmp_path, cache_limit_mib=0.0001)
    for seed in range(3):
        executor.obtain(Execution(small_run(seed=seed)), "GATE")
    assert not left.exists()
    # All three are used by this session, which may still record them.
    assert len(list((tmp_path / ".pytest_gates" / "evidence").iterdir())) == 3

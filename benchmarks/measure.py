"""Whole processes, measured from outside; A and B in turns; medians with ranges; the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", ROOT / "benchmarks" / "results"))
"""Where figures are kept; elsewhere on a machine whose copy of the project is thrown away."""
REPETITIONS = 5


@dataclass(frozen=True)
class Cost:
    """What one process and its descendants took."""

    wall_s: float
    cpu_s: float
    """User and system time; what other processes of the machine do disturbs it least."""
    peak_mib: float
    """Largest resident set of any one process."""
    tree_mib: float | None = None
    """Largest sum of resident sets over the process and its descendants, sampled at 20 Hz."""


@dataclass(frozen=True)
class Spread:
    """A median with its range."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def environment(bytecode: Path, **more: str) -> dict[str, str]:
    """The environment of a child: byte code is kept, as on any user's machine, but apart."""
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONDONTWRITEBYTECODE", "CI"}}
    path = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    return env | {"PYTHONPYCACHEPREFIX": str(bytecode), "PYTHONPATH": path} | more


def pytest_command(*args: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]


def cost(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    *,
    tree: bool = False,
    expect: Sequence[int] = (0,),
) -> Cost:
    """Run a command to its end; its exit status must be one of `expect`."""
    with tempfile.TemporaryFile() as told:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=dict(env), stdout=told, stderr=told)
        watched = _Tree(process.pid) if tree else None
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = watched.stop() if watched else None
        if process.returncode not in expect:
            told.seek(0)
            sys.exit(f"{' '.join(command)}: {process.returncode}\n{told.read().decode()[-4000:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, peak)


class _Tree:
    """Samples the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._root = psutil.Process(pid)
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        import psutil

        while not self._over.wait(0.05):
            total = 0
            try:
                members = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            for one in members:
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue  # gone since it was listed
            self._peak = max(self._peak, total)

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self._peak / 2**20


def turns(count: int, within_s: float | None = None) -> Iterator[int]:
    """Numbers of turns, as many as fit: none is begun that would end too late if it took as long
    as the longest so far. The first is always carried out."""
    begun = last = time.monotonic()
    longest = 0.0
    for turn in range(count):
        if within_s is not None and turn and last - begun + longest > within_s:
            print(f"  {turn} of {count} turns in {last - begun:.0f} s, then the time is up")
            return
        yield turn
        now = time.monotonic()
        longest, last = max(longest, now - last), now


def limited(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of a benchmark, and within how many seconds it begins no further turn."""
    parser.add_argument("--within", type=float, metavar="SECONDS", help="begin no turn beyond")
    options, _ = parser.parse_known_args()
    return options


def in_turns(
    sides: Mapping[str, Callable[[], Cost]], repetitions: int = REPETITIONS
) -> dict[str, list[Cost]]:
    """Each side once to warm up, then all sides in turns, in the other order every second time."""
    for run in sides.values():
        run()
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in in_order(sides, repetition):
            costs[name].append(sides[name]())
    return costs


def in_order(names: Iterable[str], turn: int) -> list[str]:
    """The sides of a turn: every second time the other way about."""
    return list(names) if turn % 2 == 0 else list(names)[::-1]


def output(command: Sequence[str], env: Mapping[str, str]) -> str:
    """What a command prints, run to its end; one that fails ends the benchmark with its errors."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.returncode}\n{done.stderr[-4000:]}")
    return done.stdout


def ratios(over: Sequence[Cost], under: Sequence[Cost], of: str) -> Spread:
    """Ratios of neighbours, so that drift of the machine cancels."""
    return spread([getattr(a, of) / getattr(b, of) for a, b in zip(over, under, strict=True)])


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pytest-gates-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine() -> dict[str, Any]:
    """The machine, without its name, its users or its folders."""
    versions = {}
    for package in ("pytest", "pydantic", "pyyaml", "torch"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "gpus": _gpus(),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def _gpus() -> list[str]:
    from pytest_gates.run.gpus import find_gpus

    return [gpu.name for gpu in find_gpus().all]


def report(name: str, figures: Mapping[str, Any], raw: Mapping[str, Sequence[Any]]) -> None:
    """Print the figures, and keep them with everything they were made from."""
    shown = {key: str(one) if isinstance(one, Spread) else one for key, one in figures.items()}
    print(f"{name}:", *(f"  {key}: {value}" for key, value in shown.items()), sep="\n", flush=True)
    data = {
        "benchmark": name,
        "machine": machine(),
        "figures": {k: asdict(v) if isinstance(v, Spread) else v for k, v in figures.items()},
        "raw": {
            side: [asdict(one) if isinstance(one, Cost) else one for one in costs]
            for side, costs in raw.items()
        },
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    draft = path.with_suffix(".draft")  # who is cut off here leaves the turns before it
    draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)

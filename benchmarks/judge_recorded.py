"""Judging from recorded evidence against as many plain parametrised pytest items.

    python -m benchmarks.judge_recorded [--gates 1000 10000 100000] [--repetitions 5]

Two sessions are held against the plain one: `first`, in which nothing was judged before and
nothing is recorded (`--gates-record never`), and `again`, in which each gate has a record, a basis
in its contract, and is judged by its recorded evidence (`--gates-replay`). To record 100,000 gates
takes half an hour of fsync; of so many, the first judgement alone is measured, once.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from itertools import pairwise
from pathlib import Path

from benchmarks.measure import (
    REPETITIONS,
    Cost,
    cost,
    environment,
    in_turns,
    ratios,
    report,
    scratch,
    spread,
)
from benchmarks.measure import pytest_command as pytest
from benchmarks.recorded_project import write_project

SIZES = (1000, 10_000, 100_000)
LARGE = 50_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gates", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--sides", nargs="+", default=["plain", "first", "again"])
    # Run together with others, the arguments are theirs.
    options, _ = parser.parse_known_args()
    figures: dict[str, object] = {}
    raw: dict[str, list[Cost]] = {}
    for gates in options.gates:
        costs = _measure(gates, options.repetitions, options.sides)
        raw |= {f"{name}_{gates}": many for name, many in costs.items()}
        for name, many in costs.items():
            figures[f"{name}_{gates}_cpu_s"] = spread([one.cpu_s for one in many])
            figures[f"{name}_{gates}_peak_mib"] = spread([one.peak_mib for one in many])
            if name != "plain":
                figures[f"{name}_{gates}_ratio"] = ratios(many, costs["plain"], "cpu_s")
    figures |= _growth(options.gates, raw)
    report("judge_recorded", figures, raw)


def _measure(gates: int, repetitions: int, names: list[str]) -> dict[str, list[Cost]]:
    with scratch() as folder:
        env = environment(folder / "bytecode")
        first, again = folder / "first", folder / "again"
        write_project(first, gates)
        gated = pytest("-q", "-p", "pytest_gates.plugin", "--gates", "contracts")
        if "again" in names and gates <= LARGE:
            shutil.copytree(first, again)
            cost([*gated, "--gates-record", "changed"], again, env)
        sides = {
            "plain": lambda: cost(pytest("-q", "plain"), first, env),
            "first": lambda: _fresh([*gated, "--gates-record", "never"], first, env),
            "again": lambda: cost([*gated, "--gates-replay"], again, env),
        }
        if gates > LARGE:
            return {name: [sides[name]()] for name in names if name != "again"}
        return in_turns({name: sides[name] for name in names}, repetitions)


def _fresh(command: list[str], folder: Path, env: dict[str, str]) -> Cost:
    shutil.rmtree(folder / ".pytest_gates", ignore_errors=True)
    return cost(command, folder, env)


def _growth(sizes: list[int], raw: dict[str, list[Cost]]) -> dict[str, float]:
    """What a further gate costs, between neighbouring sizes: constant if time is linear."""
    found = {}
    for few, many in pairwise(sizes):
        for side in ("plain", "first", "again"):
            if f"{side}_{few}" not in raw or f"{side}_{many}" not in raw:
                continue
            for of, unit, scale in (("cpu_s", "cpu_ms", 1e3), ("peak_mib", "kib", 1024.0)):
                low = statistics.median(getattr(one, of) for one in raw[f"{side}_{few}"])
                high = statistics.median(getattr(one, of) for one in raw[f"{side}_{many}"])
                key = f"{side}_{unit}_a_gate_{few}_to_{many}"
                found[key] = round((high - low) / (many - few) * scale, 4)
    return found


if __name__ == "__main__":
    main()

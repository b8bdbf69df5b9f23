"""`make gates` with its environment ready: seconds, and memory of the whole process tree.

It runs in a copy of the project, so that nothing is recorded in this one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.copied_project import copy_project
from benchmarks.measure import REPETITIONS, cost, environment, report, scratch, spread


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    with scratch() as folder:
        project = copy_project(folder / "project")
        env = environment(folder / "bytecode") | {"PYTHONPATH": ""}
        python = Path(sys.executable)
        command = ["make", "gates", f"PYTHON={python}", "VENV="]
        costs = [cost(command, project, env, tree=True) for _ in range(options.repetitions)]
    report(
        "make_gates",
        {
            "first_wall_s": round(costs[0].wall_s, 2),
            "wall_s": spread([one.wall_s for one in costs]),
            "cpu_s": spread([one.cpu_s for one in costs]),
            "tree_peak_mib": spread([one.tree_mib or 0.0 for one in costs]),
        },
        {"make_gates": costs},
    )


if __name__ == "__main__":
    main()

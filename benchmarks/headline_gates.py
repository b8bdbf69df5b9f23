"""The four headline gates on a GPU, from process start to written verdict.

    python -m benchmarks.headline_gates [--repetitions 5]

`cold` is a fresh copy of the project with nothing cached: no corpus, tokenizer, compiled kernels
or byte code of ours (byte code of installed packages stays, as after any installation). `warm` is
the next session in the same copy. Every gate is executed anew, for evidence is not kept from one
session to the next; a session that wrote no verdict, or replayed one, is an error here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from benchmarks.copied_project import copy_project
from benchmarks.measure import (
    REPETITIONS,
    Cost,
    cost,
    environment,
    limited,
    report,
    scratch,
    spread,
    turns,
)
from benchmarks.measure import pytest_command as pytest

CONTRACT = "contracts/gpu-training-backend.yaml"
GATES = ("GATE-GPU-002", "GATE-GPU-003", "GATE-GPU-004", "GATE-GPU-006")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = limited(parser)
    from pytest_gates.run.gpus import find_gpus

    if not find_gpus().all:
        sys.exit("no NVIDIA GPU on this machine")
    cold: list[Cost] = []
    warm: list[Cost] = []
    for _ in turns(options.repetitions, options.within):
        with scratch() as folder:
            project = copy_project(folder / "project")
            cold.append(_session(project, folder / "caches"))
            print(f"  nothing cached {cold[-1].wall_s:.1f} s", flush=True)
            warm.append(_session(project, folder / "caches"))
        report(
            "headline_gates",
            {
                "gates": ", ".join(GATES),
                "nothing_cached_wall_s": spread([one.wall_s for one in cold]),
                "caches_warm_wall_s": spread([one.wall_s for one in warm]),
            },
            {"cold": cold, "warm": warm},
        )


def _session(project: Path, caches: Path) -> Cost:
    # Verdicts are taken back to pending, so that the session has one to write for each gate.
    shutil.rmtree(project / "evidence", ignore_errors=True)
    contract = project / CONTRACT
    pristine = project / "contract.pristine"
    if not pristine.exists():
        pristine.write_text(_pending(contract), encoding="utf-8")
    shutil.copyfile(pristine, contract)
    env = environment(
        caches / "bytecode",
        TORCHINDUCTOR_CACHE_DIR=str(caches / "inductor"),
        TRITON_CACHE_DIR=str(caches / "triton"),
        CUDA_CACHE_PATH=str(caches / "cuda"),
        XDG_CACHE_HOME=str(caches / "xdg"),
    )
    env["PYTHONPATH"] = os.pathsep.join([str(project), *sys.path[1:]])
    command = pytest("-q", "-p", "pytest_gates.plugin", "--gates", CONTRACT)
    chosen = ["-k", " or ".join(GATES), "--gates-live", "--gates-record", "changed"]
    taken = cost([*command, *chosen], project, env)
    written = contract.read_text(encoding="utf-8").count("verdict_basis:")
    if written != len(GATES):
        sys.exit(f"{written} verdicts were written, not {len(GATES)}")
    return taken


def _pending(contract: Path) -> str:
    """The contract as it was before any gate was judged."""
    from pytest_gates.contract.nodes import Mapping, Sequence, parse_document

    text = contract.read_text(encoding="utf-8")
    root = parse_document(text, CONTRACT)
    gates = root.get("gates") if isinstance(root, Mapping) else None
    spans: list[tuple[int, int, str]] = []
    for gate in gates.items if isinstance(gates, Sequence) else ():
        if not isinstance(gate, Mapping):
            continue
        verdict, basis = gate.get("verdict"), gate.entry("verdict_basis")
        if verdict is not None:
            spans.append((verdict.start, verdict.end, "pending"))
        if basis is not None:
            spans.append((text.rfind("\n", 0, basis[0].start), basis[1].end, ""))
    for start, end, new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


if __name__ == "__main__":
    main()

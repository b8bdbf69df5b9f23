"""The entry of a run's process under the plugin: that of `model`, given the properties beyond it.

`model` imports nothing else of the program, so what lies above it is handed in from above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_gates.model.config import ExecutedRun, ForwardRun, PretrainRun, ProbeRun
from pytest_gates.model.eager import eager_as_declared, eager_on

_OF_A_MODEL = ("pytest_gates.model.properties.of_models", "pytest_gates.model.properties.of_paths")
_OF_RULES = ("pytest_gates.model.properties.of_rules", "pytest_gates.properties")
_COMPILER = ("pytest_gates.model.preload_compiler",)


def imports_of(run: ExecutedRun, capability: tuple[int, int] | None) -> tuple[str, ...]:
    """What some runs need and most do not: searches hypothesis, others torch's compiler.

    Args:
        run: what is about to be executed.
        capability: compute capability of its GPU; None: it has none, or nobody can tell.
    """
    if not isinstance(run, ProbeRun) and _refused(run):
        return ()
    if isinstance(run, PretrainRun):
        fused = eager_as_declared(run) is None and eager_on(capability) is None
        return () if fused else _COMPILER
    if isinstance(run, ForwardRun) and run.compiled:
        return _COMPILER
    if not isinstance(run, ForwardRun | ProbeRun) or not run.properties:
        return ()
    return _OF_RULES if isinstance(run, ProbeRun) else _OF_A_MODEL


def _refused(run: PretrainRun | ForwardRun) -> bool:
    """Whether the run asks for what is hidden from it, so that it ends before it needs anything.

    Under a fault it may go on all the same; it imports what it needs by itself then.
    """
    return run.host.cuda == "hidden" and run.device.startswith("cuda")


def run_request(request_path: Path, out: Path) -> int:
    """Carry out a request and return its exit code; see `model.__main__.run_request`."""
    from pytest_gates.model.__main__ import run_request as carry_out  # noqa: PLC0415 - loads torch

    return carry_out(request_path, out, of_judging)


def of_judging() -> Mapping[str, Callable[[Any, Any], Any]]:
    """Properties of checks and write-back; imports hypothesis."""
    from pytest_gates.properties import OF_JUDGING  # noqa: PLC0415 - as said

    return OF_JUDGING

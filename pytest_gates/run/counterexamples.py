"""Counterexamples that earlier executions of a run found: evidence, and tried first next time.

They are where all evidence is: recorded, where a failed gate cites it, or in the cache, where a
session that records nothing left it. What a sabotaged run found is nothing that is known of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_gates.errors import GatesError
from pytest_gates.evidence import Evidence, run_hash
from pytest_gates.evidence_store import read_evidence
from pytest_gates.model.config import ForwardRun, ProbeRun, Run

Known = Mapping[str, tuple[dict[str, Any], ...]]
MOST = 32
"""Counterexamples of a property that are tried again."""


def known_counterexamples(root: Path, folders: tuple[Path, ...], run: Run) -> Known:
    """What falsified the run's properties before, by property, in an order that does not change.

    Args:
        root: the project's root.
        folders: where evidence folders lie, `<first 10 of the run's hash>-<...>`.
        run: the run that is about to be executed.
    """
    if not isinstance(run, ForwardRun | ProbeRun) or not run.properties:
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for evidence in _of_run(root, folders, run):
        for name, result in evidence.main.properties.items():
            if result.counterexample is not None:
                case = {k: v for k, v in result.counterexample.items() if k != "known"}
                found.setdefault(name, {})[json.dumps(case, sort_keys=True)] = case
    return {
        name: tuple(many[key] for key in sorted(many)[:MOST])
        for name, many in sorted(found.items())
    }


def _of_run(root: Path, folders: tuple[Path, ...], run: Run) -> Iterator[Evidence]:
    hashed = run_hash(run)
    for folder in folders:
        for path in sorted(folder.glob(f"{hashed[:10]}-*")):
            try:
                evidence = read_evidence(root, path.relative_to(root).as_posix())
            except (GatesError, ValueError):  # the audit says what is wrong with it
                continue
            if evidence.run_hash == hashed and evidence.fault is None:
                yield evidence

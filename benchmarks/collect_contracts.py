"""Collecting 170 contract files, and whether torch was imported for it.

The field's contracts where they lie beside the project (`../shared/field/contracts`), repeated;
else as many generated ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import ROOT, cost, environment, in_turns, report, scratch, spread
from benchmarks.measure import pytest_command as pytest
from benchmarks.recorded_project import write_project

FILES = 170
FIELD = ROOT.parent / "shared" / "field" / "contracts"
NO_TORCH = """\
import sys

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if "torch" in sys.modules:
        session.exitstatus = 70
"""


def main() -> None:
    with scratch() as folder:
        source = _contracts(folder)
        (folder / "no_torch.py").write_text(NO_TORCH, encoding="utf-8")
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        env = environment(folder / "bytecode")
        env["PYTHONPATH"] = f"{folder}:{env['PYTHONPATH']}"
        gates = pytest("-p", "pytest_gates.plugin", "-p", "no_torch", "--collect-only", "-qq")
        torch = [sys.executable, "-c", "import pytest, torch; raise SystemExit(pytest.main())"]
        control = [*torch, "-p", "no_torch", "-p", "no:cacheprovider", "--collect-only", "empty"]
        (folder / "empty").mkdir()
        cost(control, folder, env, expect=(70,))  # the guard can go off
        costs = in_turns(
            {
                "collect": lambda: cost([*gates, "--gates", "contracts"], folder, env),
                "nothing": lambda: cost([*gates, "empty"], folder, env, expect=(5,)),
            }
        )
    whole, nothing = costs["collect"], costs["nothing"]
    pairs = list(zip(whole, nothing, strict=True))
    report(
        "collect_contracts",
        {
            "contracts": source,
            "files": FILES,
            "whole_process_wall_s": spread([one.wall_s for one in whole]),
            "whole_process_cpu_s": spread([one.cpu_s for one in whole]),
            "over_an_empty_run_cpu_s": spread([a.cpu_s - b.cpu_s for a, b in pairs]),
            "torch_imported": False,  # or the process would have ended with 70
        },
        costs,
    )


def _contracts(folder: Path) -> str:
    (folder / "contracts").mkdir(parents=True)
    found = sorted(FIELD.glob("*.yaml"))
    source = "the field's, repeated" if found else "generated"
    if not found:
        write_project(folder / "generated", 1500, a_file=50)
        found = sorted((folder / "generated" / "contracts").glob("*.yaml"))
    for index in range(FILES):
        one = found[index % len(found)]
        # Ids are unique in a project, so a repeated contract needs one of its own.
        text = one.read_text(encoding="utf-8").replace("contract_id: ", f"contract_id: N{index}-")
        target = folder / "contracts" / f"{index:03d}-{one.name}"
        target.write_text(text, encoding="utf-8")
    return source


if __name__ == "__main__":
    main()

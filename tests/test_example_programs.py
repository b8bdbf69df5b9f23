"""The worked examples of driver `command`: each as it stands, run, judged and seen red."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project import Project

from pytest_gates.contract.load import load_contract
from pytest_gates.contract.runs import Caps
from pytest_gates.run.plan import executions

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = ("loop", "hf-trainer", "lightning-trainer")


@pytest.mark.parametrize(
    "name",
    [name if name == "loop" else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS],
)
def test_a_copy_of_the_example_passes_and_its_falsifier_is_caught(
    project: Project, name: str
) -> None:
    shutil.rmtree(project.contracts)
    (project.root / "tox.ini").unlink()  # pytester's; the example has its own configuration
    shutil.copytree(EXAMPLES / name, project.root, dirs_exist_ok=True)
    done = project.run("-k", "not HF370")
    done.assert_outcomes(passed=2, deselected=6 if name == "hf-trainer" else 0)
    told = done.stdout.str()
    assert "PASS     LIVE" in told or "PASS    LIVE" in told
    assert "CAUGHT" in told
    # Without the program's permission, what was recorded is judged again.
    done = project.run("-k", "not HF370", "--gates-replay")
    assert "1 PASS replayed" in done.stdout.str()
    assert "1 CAUGHT" in done.stdout.str()


def test_the_370m_on_a_gpu_is_declared_in_full_and_blocked_without_one(project: Project) -> None:
    path = EXAMPLES / "hf-trainer" / "contracts" / "gpu-370m.yaml"
    contract = load_contract(path, path.name, Caps())
    assert len(contract.gates) == 3
    for one in contract.falsifiers:
        assert one.gate is not None
        assert one.target is not None
        [sabotaged] = executions(one.gate, one.fault)["hf-370m"]
        assert sabotaged.fault is not None
    budget = contract.gates[1].checks[0].model_dump()
    assert set(budget["below"]) == {"NVIDIA H200", "NVIDIA H100 80GB HBM3"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_about_thirty_lines(name: str) -> None:
    contracts = sorted((EXAMPLES / name / "contracts").glob("*.yaml"))
    small = min(path.read_text(encoding="utf-8").count("\n") for path in contracts)
    assert small <= 40

"""Many processes recording into one contract, and write-back over thousands of contracts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from project import PLUGIN, Project, dedented

from pytest_gates import cli
from pytest_gates.writeback import ContractEdit, GateEdit, render

GATES, PROCESSES = 200, 8
HEAD = """
    contract_id: C-MANY
    version: 1.0.0
    runs:
      log:
        driver: recorded
        files: [{path: steps.jsonl, format: jsonl}]
    gates:
"""


def many_gates(project: Project) -> None:
    project.steps("steps.jsonl", wall_ms=[40.0 + (index % 7) for index in range(30)])
    gates = "".join(
        f"  # ── before {index} → kept ──\n  - id: GATE-{index:03}\n    run: log   # of {index}\n"
        "    checks: [{kind: finite, metrics: [wall_ms]}]\n    verdict: pending   # typed\n"
        for index in range(GATES)
    )
    project.contract(dedented(HEAD) + gates)


def check_all(project: Project) -> None:
    text = (project.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert text.count("verdict: pass   # typed") == GATES
    assert text.count("verdict_basis:") == GATES
    assert all(f"  # ── before {index} → kept ──\n" in text for index in range(GATES))
    assert all(f"run: log   # of {index}\n" in text for index in range(GATES))
    assert len(project.records) == GATES
    contracts = str(project.contracts)
    assert cli.main(["audit", "--root", str(project.root), contracts]) == 0


@pytest.mark.slow
def test_eight_processes_record_two_hundred_gates_of_one_contract(project: Project) -> None:
    many_gates(project)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    }
    running = []
    for part in range(PROCESSES):
        mine = [
            f"contracts/claims.yaml::GATE-{index:03}" for index in range(part, GATES, PROCESSES)
        ]
        command = [sys.executable, "-m", "pytest", *PLUGIN, "-q", "-p", "no:cacheprovider",
                   "--gates", "contracts", *mine]  # fmt: skip
        running.append(
            subprocess.Popen(command, cwd=project.root, env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
        )  # fmt: skip
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, told
    check_all(project)


@pytest.mark.slow
def test_four_workers_record_two_hundred_gates_of_one_contract(project: Project) -> None:
    many_gates(project)
    project.process("-p", "xdist", "-n", "4", "-q").assert_outcomes(passed=GATES)
    check_all(project)


# --- write-back over generated contracts -------------------------------------------------------

VERDICTS = ("pending", '"pending"', "'pending'", "fail", "PENDING", "pass")
COMMENTS = ("", "   # typed", " # → ── ✓", "\t# a tab")
PROSE = ("rule: It works.", 'rule: "a: b # c"', "rule: >\n      folded\n      text",
         "note: |\n      kept\n\n      as it is", "tags: [a, 'b', \"c\"]",
         "unité: né → ok")  # fmt: skip


def generated(random_: random.Random) -> tuple[str, int]:
    """A contract, and the index of the gate that is edited."""
    count = random_.randint(1, 4)
    lines = [random_.choice(("# head ── →", "contract_id: C", "owner: {name: x, mail: 'y'}"))]
    lines.append("gates:")
    for index in range(count):
        if random_.random() < 0.3:
            lines.append(f"  # before {index}")
        if random_.random() < 0.2:
            verdict = random_.choice(VERDICTS)
            lines.append(f"  - {{id: G{index}, verdict: {verdict}, note: 'x'}}")
            continue
        body = random_.sample(PROSE, random_.randint(0, 3))
        body = list({one.split(":")[0]: one for one in body}.values())  # no key twice
        body.insert(
            random_.randint(0, len(body)),
            f"verdict: {random_.choice(VERDICTS)}{random_.choice(COMMENTS)}",
        )
        lines.append(f"  - id: G{index}")
        lines += [f"    {one}" for one in body]
        if random_.random() < 0.3:
            lines.append("")
    lines += random_.choice(([], ["# the end"], ["", "tail: [1, 2]"]))
    eol = random_.choice(("\n", "\n", "\r\n"))
    text = eol.join("\n".join(lines).split("\n"))
    return text + random_.choice(("", eol)), random_.randrange(count)


def alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def check_only_the_target_changed(number: int) -> None:
    text, index = generated(random.Random(number))
    entry = {"record": "ab" * 32, "verdict": "pass", "figure": "é → 1"}
    edit = ContractEdit(gates=(GateEdit(f"G{index}", "inconclusive", (entry,)),))
    new = render(text, edit, "c.yaml")
    start = alike(text, new)
    end = len(text) - alike(text[start:][::-1], new[start:][::-1])
    gone = text[start:end]
    # What is gone lies on the verdict's own line: its value and what stood behind it.
    assert "\n" not in gone.rstrip("\r\n"), (number, gone)
    line = text[:start].rpartition("\n")[2] + gone
    assert "verdict:" in line, (number, line)
    assert render(new, edit, "c.yaml") == new, number
    assert "inconclusive" in new, number


def test_write_back_changes_nothing_outside_its_target_in_two_hundred_contracts() -> None:
    for number in range(200):
        check_only_the_target_changed(number)


@pytest.mark.slow
def test_write_back_changes_nothing_outside_its_target_in_ten_thousand_contracts() -> None:
    for number in range(10_000):
        check_only_the_target_changed(number)

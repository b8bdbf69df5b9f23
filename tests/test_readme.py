"""README keeps its word: its contract runs green as pasted, and its two commands are CI's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import Project

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_contract_runs_green_in_a_fresh_project(project: Project) -> None:
    (contract,) = blocks("yaml")
    assert len(contract.splitlines()) <= 36
    path = project.contract(contract, "first.yaml")
    result = project.process()
    assert result.ret == pytest.ExitCode.OK
    (shown,) = [block for block in blocks("") if block.startswith("gate ")]
    measured = re.compile(r"-?[0-9]+[.][0-9]+")
    said = [measured.sub("N", line).split() for line in result.outlines]
    for line in shown.splitlines():
        assert measured.sub("N", line).split() in said, f"README shows: {line}"
    written = path.read_text(encoding="utf-8")
    assert written.count("verdict: pass\n") == 2
    assert "ACTIVE_WITH_LIVE_EVIDENCE" in written
    assert project.records


def test_the_commands_are_targets_of_the_makefile_that_ci_calls() -> None:
    (commands,) = blocks("sh")
    named = re.findall(r"^make ([a-z]+)", commands, re.MULTILINE)
    assert named == ["gates", "test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text()
    assert set(named) <= set(targets)
    assert set(named) <= set(re.findall(r"^make ([a-z-]+)$", ci, re.MULTILINE))


def test_make_gates_is_the_command_that_readme_says_it_is() -> None:
    recipe = re.search(r"^gates:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert recipe[1] == "$(PYTEST) --gates contracts/ $(ARGS)"  # no @: make prints it
    assert "pytest --gates contracts/" in README


def test_the_options_that_readme_names_are_offered(project: Project) -> None:
    offered = project.pytester.runpytest_subprocess("-p", "pytest_gates.plugin", "--help")
    named = set(re.findall(r"--gates(?:-[a-z]+)?", README))
    assert len(named) >= 5
    assert all(re.search(rf"^\s+{option}\b", offered.stdout.str(), re.MULTILINE)
               for option in named)  # fmt: skip

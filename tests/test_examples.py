"""What a team copies must work: the example as it stands, and the workflows' commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from project import Project

from pytest_gates.cli import main
from pytest_gates.commands import COMMANDS

ROOT = Path(__file__).parent.parent
TEAM = ROOT / "examples" / "team"
WORKFLOWS = [*(ROOT / ".github" / "workflows").glob("*.yml"),
             *(TEAM / ".github" / "workflows").glob("*.yml")]  # fmt: skip
COMMAND = re.compile(r"^(?:\.venv/bin/)?(pytest|pytest-gates) (.*)$")


@pytest.fixture
def team(project: Project) -> Project:
    shutil.rmtree(project.contracts)
    (project.root / "tox.ini").unlink()  # pytester's; the example has its own configuration
    shutil.copytree(TEAM, project.root, dirs_exist_ok=True)
    return project


def test_a_copy_of_the_example_is_judged_written_and_replayed(team: Project) -> None:
    team.run("--gates-report", "gates.html").assert_outcomes(passed=3)
    text = (team.contracts / "training.yaml").read_text(encoding="utf-8")
    assert text.count("verdict: pass") == 3
    assert len(team.records) == 3
    assert (team.root / "gates.html").stat().st_size > 10_000
    team.run("--gates-replay").assert_outcomes(passed=2)
    after = (team.contracts / "training.yaml").read_text(encoding="utf-8")
    assert after == text


def test_the_example_trains_anew_and_is_judged_again(team: Project) -> None:
    log = team.root / "logs" / "train.jsonl"
    before = log.read_text(encoding="utf-8")
    subprocess.run([sys.executable, "train.py", "logs/train.jsonl"], cwd=team.root, check=True)
    assert log.read_text(encoding="utf-8") != before  # other times, the same losses
    team.run("-k", "001 or 002").assert_outcomes(passed=2)


def test_a_worse_log_turns_the_example_red(team: Project) -> None:
    log = team.root / "logs" / "train.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines()
    lines[30] = re.sub(r'"train_loss": [0-9.]+', '"train_loss": NaN', lines[30])
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    team.run("-k", "001").assert_outcomes(failed=1)


def _calls(path: Path) -> list[list[str]]:
    """The calls of pytest and pytest-gates in a workflow's steps."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    lines = [line.strip() for job in jobs.values() for step in job["steps"]
             for line in step.get("run", "").splitlines()]  # fmt: skip
    return [[found[1], *shlex.split(found[2])] for line in lines if (found := COMMAND.match(line))]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_workflow_may_only_read_and_names_the_versions_of_its_actions(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"]
            if "uses" in step]  # fmt: skip
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in used)


def test_workflows_replay_for_everyone_and_run_live_on_our_own_gpu() -> None:
    for path in (ROOT / ".github/workflows/gates.yml", TEAM / ".github/workflows/gates.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        replay, live = workflow["jobs"]["replay"], workflow["jobs"]["live"]
        assert replay["if"] == "github.event_name == 'pull_request'"
        assert live["if"] == "github.event_name != 'pull_request'"
        assert live["runs-on"] == ["self-hosted", "gpu"]
        assert workflow["permissions"] == {"contents": "read"}
        told = path.read_text(encoding="utf-8")
        assert "--gates-replay" in told
        assert "--gates-live --gates-record changed" in told
        assert "gh pr create" in told


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_workflows_exist(
    path: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    offered = project.run("--help").stdout.str()
    names = {command.__name__.rpartition(".")[2] for command in COMMANDS}
    for program, *words in _calls(path):
        options = [word for word in words if word.startswith("--")]
        if program == "pytest":
            assert all(option in offered for option in options), words
        else:
            assert words[0] in names, words
            with pytest.raises(SystemExit):
                main([words[0], "--help"])
            told = capsys.readouterr().out
            assert all(option in told for option in options), words

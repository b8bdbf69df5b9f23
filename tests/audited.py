"""A project that was judged twice, what tampers with it, and the audit of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from project import RECORDED, Project

from pytest_gates import cli

QUICK = [40.0 + (index % 7) for index in range(30)]
SLOW = [200.0 + (index % 7) for index in range(30)]
TRAINED = """
    contract_id: C-TRAINED
    runs:
      small:
        driver: pretrain
        device: cpu
        model: llama-1m
        data: {corpus: python-stdlib}
        seq_len: 16
        batch_size: 2
        steps: 4
        validation_batches: 0
        optimizer: {warmup_steps: 1}
    gates:
      - id: GATE-TRAINED
        run: small
        checks: [{kind: bounded, metric: train_loss, below: %s}]
        verdict: pending
    falsification_tests:
      - id: FALSIFY-TRAINED
        binds_to: GATE-TRAINED
        inject: {fault: loss_spike, step: 2}
        expect: {verdict: fail, check: bounded}
"""
"""A gate over four real steps, of which the loss must lie below `%s`, and its falsifier."""


def judged_twice(project: Project) -> Project:
    """A contract that was judged twice: fail, then pass; the audit is clean."""
    project.steps("steps.jsonl", wall_ms=SLOW)
    project.contract(RECORDED)
    project.run().assert_outcomes(failed=1)
    project.steps("steps.jsonl", wall_ms=QUICK)
    project.run().assert_outcomes(passed=1)
    return project


class Audit:
    """`audit(*options)`: codes that `pytest-gates audit contracts` finds; notes are left out."""

    def __init__(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._project, self._monkeypatch, self._capsys = project, monkeypatch, capsys

    def __call__(self, *options: str) -> list[str]:
        self._monkeypatch.chdir(self._project.root)
        self._capsys.readouterr()
        status = cli.main(["audit", "contracts", "--json", *options])
        told = json.loads(self._capsys.readouterr().out)
        assert status == (1 if told["findings"] else 0)
        return [one["code"] for one in told["findings"]]


def text_of(project: Project) -> str:
    return (project.contracts / "claims.yaml").read_text(encoding="utf-8")


def edit(project: Project, before: str, after: str) -> None:
    text = text_of(project)
    assert before in text
    (project.contracts / "claims.yaml").write_text(text.replace(before, after), encoding="utf-8")


def newest(project: Project) -> Path:
    cited = re.search(r'- record: "([0-9a-f]{64})"', text_of(project))
    assert cited is not None
    return next(path for path in project.records if path.stem == cited[1])


def oldest(project: Project) -> Path:
    return next(path for path in project.records if path != newest(project))


def keep(project: Project, data: bytes) -> None:
    """A file of the ledger under its true name."""
    sha = hashlib.sha256(data).hexdigest()
    path = project.root / "evidence" / "records" / sha[:2] / f"{sha}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def evidence_folders(project: Project) -> list[Path]:
    return sorted((project.root / "evidence" / "runs").iterdir())


def git(project: Project, *arguments: str) -> str:
    """Run git in a project; what it says."""
    environment = os.environ | {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "a"), ("EMAIL", "a@example.org"))
    }
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    done = subprocess.run(
        command, cwd=project.root, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout

"""A program of a team's own in a project, the gates over it, and what it leaves running."""

from __future__ import annotations

import os

import psutil
import pytest
from project import Project, dedented

from pytest_gates.evidence import Evidence
from pytest_gates.evidence_store import read_evidence

ALLOWED = "[pytest]\nfilterwarnings = error\ngates_allow_drivers = command\n"
STEPS = """
    import json, os, sys, time
    def tell(step, loss, **more):
        print(json.dumps({"step": step, "train_loss": loss, **more}), flush=True)
"""


class Program:
    """A program in a project, and the gates over it."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def __call__(
        self,
        source: str,
        *args: str,
        checks: str = "[{kind: finite, metrics: [train_loss]}]",
        more: str = "",
        telemetry: str = "[{stdout: true, format: jsonl}]",
        falsifier: str = "",
    ) -> pytest.RunResult:
        text = dedented(STEPS) + dedented(source)
        (self.project.root / "program.py").write_text(text, encoding="utf-8")
        self.project.contract(f"""
            contract_id: C-PROGRAM
            runs:
              own:
                driver: command
                argv: [python, program.py]
                device: cpu
                telemetry: {telemetry}
                {more}
            gates:
              - id: GATE-OWN
                run: own
                checks: {checks}
                verdict: pending
            {falsifier}
            """)
        return self.project.run(*args)

    @property
    def evidence(self) -> list[Evidence]:
        """What was sealed, the newest last."""
        root = self.project.root
        folders = sorted(
            (root / ".pytest_gates" / "evidence").iterdir(), key=lambda one: one.stat().st_mtime_ns
        )
        return [read_evidence(root, one.relative_to(root).as_posix()) for one in folders]

    def everything_kept(self) -> str:
        """All text of evidence, records and contract."""
        root = self.project.root
        paths = [*root.glob("evidence/**/*"), *root.glob(".pytest_gates/evidence/**/*"),
                 *root.glob("contracts/*")]  # fmt: skip
        return "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())


def marked_processes(mark: str) -> list[str]:
    """Living processes that carry the mark of a test in their environment."""
    found = []
    for one in psutil.process_iter():
        try:
            marked = one.environ().get("MARK_OF_A_TEST") == mark
            if marked and one.pid != os.getpid() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(one.cmdline()))
        except psutil.Error:
            continue
    # The session's own forkservers end with it.
    return [line for line in found if "forkserver" not in line]

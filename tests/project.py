"""A small project of a user's, made for one test, and pytest run in it."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

# Imported here, or pytester would drop it after each session and libyaml's events with it.
import pytest_gates.items
import pytest_gates.plugin

with suppress(ImportError):  # an extra; a second import in one process is refused by it
    import vl_convert  # noqa: F401

PLUGIN = ("-p", "pytest_gates.plugin")
NO_BYTECODE = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
"""For a process whose files cannot grow: Python would leave half of a module's bytecode in the
tree, which every process after it would trip over (importlib writes it without a look at how much
was written)."""


def dedented(text: str) -> str:
    """Text of a test's literal without its indentation."""
    return textwrap.dedent(text).lstrip("\n")


class Project:
    """`Project(pytester).contract(...).run(...)`: real files, a real pytest session."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            monkeypatch.delenv(name, raising=False)
        self.pytester = pytester
        self.root: Path = pytester.path
        pytester.makeini("[pytest]\nfilterwarnings = error\n")
        self.contracts = self.root / "contracts"
        self.contracts.mkdir()

    def contract(self, text: str, name: str = "claims.yaml") -> Path:
        path = self.contracts / name
        path.write_text(dedented(text), encoding="utf-8")
        return path

    def steps(self, name: str, **columns: Sequence[float]) -> str:
        """A recorded run: a JSON object a line."""
        path = self.root / name
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        lines = [json.dumps({"step": index, **row}) for index, row in enumerate(rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return name

    def run(self, *args: str) -> pytest.RunResult:
        # The plugin is handed over as an object: this process has imported it already.
        return self.pytester.runpytest_inprocess(
            "--gates", "contracts", *args, plugins=[pytest_gates.plugin]
        )

    def process(self, *args: str) -> pytest.RunResult:
        """The same in a process of its own."""
        return self.pytester.runpytest_subprocess(*PLUGIN, "--gates", "contracts", *args)

    @property
    def records(self) -> list[Path]:
        return sorted((self.root / "evidence" / "records").glob("*/*.json"))


RECORDED = """
    contract_id: C-STEPS
    version: 1.0.0
    metadata:
      version: "1.0.0"
    # ── a comment with → arrows ──
    runs:
      log:
        driver: recorded
        files: [{path: steps.jsonl, format: jsonl}]
        declares: {model: llama-370m, seq_len: 512, batch_size: 16, host: {gpu: NVIDIA H200}}
    gates:
      - id: GATE-MEDIAN
        rule: The median step is quick.
        run: log
        checks:
          - {kind: budget, metric: wall_ms, steps: [0, 29], statistic: median, below: 100}
        verdict: pending   # typed by nobody
        note: kept
"""
"""A contract over `steps.jsonl`, whose 30 steps decide it."""

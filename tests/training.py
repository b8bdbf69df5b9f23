"""Training in the test's own process: each run into a folder of its own, and what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pytest_gates.model import trainer
from pytest_gates.model.config import Request
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import RunRefusedError, decode_number
from pytest_gates.model.writer import TelemetryWriter

CPU = torch.device("cpu")
TINY = {"hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 24, "vocab": 256}
Line = dict[str, Any]


class Said:
    """The lines of a telemetry file, by kind."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        text = (folder / f"telemetry-{rank}.jsonl").read_text(encoding="utf-8")
        self.lines: list[Line] = [json.loads(line) for line in text.splitlines()]
        self.steps = [line for line in self.lines if line["kind"] == "step"]
        self.epochs = [line for line in self.lines if line["kind"] == "epoch"]
        self.facts = {line["name"]: line["value"] for line in self.lines if line["kind"] == "fact"}

    def events(self, name: str) -> list[Line]:
        return [line for line in self.lines if line.get("event") == name]

    def column(self, metric: str) -> list[float | None]:
        return [decode_number(step[metric]) for step in self.steps]


class Train:
    """Trains in this process, each time into a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def request(
        self,
        *,
        allocations_mib: tuple[int, ...] = (),
        resume_from: Path | None = None,
        **settings: Any,
    ) -> Request:
        values = {
            "driver": "pretrain", "device": "cpu", "model": TINY, "seq_len": 8, "batch_size": 4,
            "data": {"corpus": "python-stdlib"}, "steps": 4, "optimizer": {"warmup_steps": 2},
        }  # fmt: skip
        return Request.model_validate({
            "run": {**values, **settings}, "root": str(self.folder),
            "cache": str(self.folder / "cache"), "control": str(self.folder),
            "allocations_mib": allocations_mib,
            "resume_from": None if resume_from is None else str(resume_from),
        })  # fmt: skip

    def out(self) -> Path:
        self.count += 1
        out = self.folder / f"out-{self.count}"
        out.mkdir()
        return out

    def __call__(self, seams: Seams | None = None, **settings: Any) -> Said:
        out = self.out()
        with TelemetryWriter(out) as writer:
            trainer.run(self.request(**settings), CPU, writer, seams or Seams())
        return Said(out)

    def ended(self, seams: Seams | None = None, **settings: Any) -> tuple[Said, RunRefusedError]:
        """A run that a guard ends: what it said, and with what status."""
        out = self.out()
        with TelemetryWriter(out) as writer:
            try:
                trainer.run(self.request(**settings), CPU, writer, seams or Seams())
            except RunRefusedError as error:
                return Said(out), error
        raise AssertionError("no guard ended the run")

"""Where a run's telemetry comes from: files, their formats, and the names and units they use.

The same form serves recordings and the team's own programs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictStr, model_validator

from pytest_gates.model.settings import Index, Settings
from pytest_gates.model.telemetry import METRICS

RowFormat = Literal["jsonl", "csv", "trainer-state", "tensorboard", "mllog", "lightning-csv"]
"""Formats of rows with names of the program's own."""

UNITS: dict[str, dict[str, float]] = {
    "ms": {"ms": 1.0, "s": 1e3, "us": 1e-3, "ns": 1e-6, "min": 6e4},
    "s": {"s": 1.0, "ms": 1e-3, "min": 60.0},
    "MiB": {"MiB": 1.0, "B": 2.0**-20, "KiB": 2.0**-10, "GiB": 1024.0,
            "MB": 1e6 / 2**20, "GB": 1e9 / 2**20},
    "%": {"%": 1.0, "share": 100.0},
    "nats": {"nats": 1.0, "bits": math.log(2)},
}  # fmt: skip
"""By a metric's unit: the units that a program may tell it in, and what one is worth."""

AMBIGUOUS = frozenset({"ms", "s", "MiB", "%"})
"""Units of metrics that programs tell in several ways, so that a field must declare its own."""

TOLD = frozenset(
    name for name, metric in METRICS.items() if metric.scope in {"step", "epoch"}
) - {"epoch"}  # fmt: skip
"""Metrics that a field can tell. Epochs are counted: programs number them in fractions."""


class Frozen(dict[str, Any]):
    """A mapping that is part of a run, and so of what a hash is made of: it never changes."""

    def __hash__(self) -> int:  # type: ignore[override] # dict has none, being mutable
        """Equal mappings hash alike."""
        return hash(frozenset(self.items()))

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("a declared mapping does not change")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = _refuse


class ToldField(Settings):
    """A field of a program's log that tells a metric."""

    field: Annotated[StrictStr, Field(min_length=1)]
    """Its name in the file; a dot leads into a block of JSON."""
    unit: StrictStr | None = None
    """The unit it is told in; that of the metric if left out, where there is only one in use."""
    difference: StrictBool = False
    """The field is a clock or a sum: what counts is its difference from the step before."""


Fields = Annotated[dict[StrictStr, StrictStr | ToldField], AfterValidator(Frozen)]
"""By metric: the field's name, or its name with a unit."""


class Source(Settings):
    """A file, its format, and how its names read."""

    format: str
    """How the file is read."""
    fields: Fields = Field(default_factory=Frozen)
    """Metrics by what the file calls them: `{train_loss: loss, wall_ms: {field: dt, unit: s}}`."""
    first_step: Index | None = None
    """Number that the file gives the first step; `trainer-state` begins at 1, the others at 0."""

    @model_validator(mode="after")
    def _told(self) -> Self:
        if (self.fields or self.first_step is not None) and self.format not in ROW_FORMATS:
            raise ValueError(
                f"format {self.format} has names of its own; `fields` and `first_step` "
                f"go with {', '.join(ROW_FORMATS)}"
            )
        for text in self._wrong_fields():
            raise ValueError(text)
        return self

    def _wrong_fields(self) -> Iterator[str]:
        for metric, told in self.fields.items():
            if metric not in TOLD:
                near = difflib.get_close_matches(metric, TOLD, n=1)
                which = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(TOLD))}"
                yield f"{metric} is no metric that a field can tell; {which}"
                continue
            unit = METRICS[metric].unit
            said = told.unit if isinstance(told, ToldField) else None
            known = UNITS.get(unit, {unit: 1.0} if unit else {})
            if said is None and unit in AMBIGUOUS:
                field = told.field if isinstance(told, ToldField) else told
                yield (
                    f"{metric}: declare the unit of {field!r}, one of {', '.join(known)}: "
                    f"{{field: {field}, unit: {unit}}}"
                )
            if said is not None and said not in known:
                units = ", ".join(known) or "none"
                yield f"{metric} cannot be told in {said!r}; units: {units}"

    @property
    def begins_at(self) -> int:
        """The number that the file gives the first step."""
        if self.first_step is not None:
            return self.first_step
        return 1 if self.format == "trainer-state" else 0


class RecordedFile(Source):
    """A file that exists already, and how to read it."""

    path: StrictStr
    """Relative to the project's root, inside it, no symbolic link on the way."""
    format: Literal[
        "jsonl", "json", "nvidia-smi-csv", "trace-csv",
        "csv", "trainer-state", "tensorboard", "mllog", "lightning-csv",
    ]  # fmt: skip
    """`jsonl`: a step a line. `json`: `per_step_metrics`, log lines before it allowed.
    `nvidia-smi-csv`: samples as nvidia-smi prints them. `trace-csv`: a row a layer and a column
    of standard deviations a slot, or a row a slot with its statistics. `csv`: a row a step.
    `trainer-state`: transformers' trainer_state.json. `tensorboard`: an event file. `mllog`:
    MLPerf's `:::MLLOG` lines. `lightning-csv`: metrics.csv of Lightning's CSVLogger."""


class ProgramFile(Source):
    """What the team's program writes, and how to read it."""

    path: StrictStr | None = None
    """Relative to the project's root, or `{out}/...` in the run's own folder; `*` stands for what
    the program names itself, and exactly one file must fit."""
    stdout: StrictBool = False
    """Instead of `path`: the program's standard output."""
    format: RowFormat
    """How it is read; see the formats of a recorded file."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (not self.stdout):
            raise ValueError("give either path or `stdout: true`")
        return self

    @property
    def place(self) -> str:
        """What people call it."""
        return "standard output" if self.path is None else self.path


ROW_FORMATS: tuple[str, ...] = RowFormat.__args__  # type: ignore[attr-defined] # a Literal

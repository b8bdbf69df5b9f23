"""Telemetry lines: their typed form, their published JSON Schema, and the strict reader.

The vocabulary is `model.telemetry`; a metric added to that table is in the models and the schema
made here.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from types import NoneType
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    create_model,
)

from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Event, PropertyResult, Series, Telemetry
from pytest_gates.model.config import Index
from pytest_gates.model.telemetry import EVENTS, METRICS, Scope, decode_number

SHOWN = 120
"""Characters of a bad line that an error quotes."""


def shown(value: object) -> str:
    """What an error quotes of a value."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _number(value: object) -> float | None:
    try:
        number = decode_number(value)
    except OverflowError:
        number = math.inf
    if number is not None and math.isinf(number) and not isinstance(value, str):
        raise ValueError("beyond the range of a double")
    return number


Number = Annotated[
    float | None,
    BeforeValidator(_number),
    WithJsonSchema(
        {"anyOf": [{"type": ["number", "null"]}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    ),
]
"""A number; null where a device cannot give it; the non-finite ones by their names."""


class _Line(BaseModel):
    # Keys that are not registered stay allowed: other programs say more than we read.
    model_config = ConfigDict(extra="allow", frozen=True)


class EventLine(_Line):
    """Something that happened once. Further keys are its details."""

    kind: Literal["event"]
    event: StrictStr = Field(description=f"registered: {', '.join(EVENTS)}")
    step: Index | None = None
    """The optimizer step, if it belongs to one."""


class FactLine(_Line):
    """Something about the run as a whole; the last word on a name counts."""

    kind: Literal["fact"]
    name: StrictStr
    value: JsonValue


class PropertyLine(_Line):
    """The outcome of a search for a counterexample."""

    kind: Literal["property"]
    name: StrictStr
    examples: Index
    """Examples that were tried."""
    counterexample: dict[str, JsonValue] | None = None
    """The one that was found, null for none."""


def _measured(scope: Scope, doc: str, **required: Any) -> type[_Line]:
    """The line of one scope of metrics; `required` fields come before the metrics."""
    metrics: dict[str, Any] = {
        metric.name: (Number, Field(default=None, description=_description(metric.name)))
        for metric in METRICS.values()
        if metric.scope == scope
    }
    fields = {"kind": (Literal[scope], ...), **metrics, **required}
    line: type[_Line] = create_model(
        f"{scope.capitalize()}Line", __base__=_Line, __doc__=doc, **fields
    )
    return line


def _description(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.meaning} [{metric.unit}]" if metric.unit else metric.meaning


StepLine = _measured(
    "step",
    "What was measured at one optimizer step.",
    step=(Index, Field(description=_description("step"))),
)
EpochLine = _measured(
    "epoch",
    "One validation.",
    epoch=(Index, Field(description=_description("epoch"))),
    step=(Index | None, Field(default=None, description="optimizer steps finished by then")),
)
SlotLine = _measured(
    "slot",
    "Statistics of one place in the forward pass.",
    layer=(Annotated[int, Field(strict=True, ge=-1)], Field(description=_description("layer"))),
    slot=(StrictStr, Field(description="name of the place within its block")),
    hash=(StrictStr | None, Field(default=None, description="fingerprint of the slot's bits")),
    sketch=(
        StrictStr | None,
        Field(default=None, description="elements:base64 of doubles, comparable between runs"),
    ),
)
ParameterLine = _measured(
    "parameter",
    "Statistics of one parameter at one optimizer step.",
    step=(Index, Field(description=_description("step"))),
    layer=(Annotated[int, Field(strict=True, ge=-1)], Field(description=_description("layer"))),
    name=(StrictStr, Field(description="name of the parameter within its block")),
)

LINES: dict[str, type[_Line]] = {
    "step": StepLine,
    "epoch": EpochLine,
    "event": EventLine,
    "fact": FactLine,
    "slot": SlotLine,
    "parameter": ParameterLine,
    "property": PropertyLine,
}
"""The typed form of a line by its `kind`."""


NOTHING = Series({})


@dataclass
class _Columns:
    """Rows gathered into columns; a row that lacks a column has None there."""

    names: tuple[str, ...]
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def series(self) -> Series:
        if not self.rows:
            return NOTHING
        said = {name for row in self.rows for name in row}
        return Series(
            {
                name: tuple([_cell(row.get(name)) for row in self.rows])
                for name in self.names
                if name in said
            }
        )


def _cell(value: Any) -> float | str | None:
    return float(value) if isinstance(value, int) else value


def _names(line: type[_Line]) -> tuple[str, ...]:
    return tuple(name for name in line.model_fields if name != "kind")


LARGEST_INTEGER = 2**53 - 1
_STEP_NAMES = frozenset(_names(StepLine))
_MEASURED = {kind: _names(LINES[kind]) for kind in ("step", "epoch", "slot", "parameter")}


def parse_telemetry(
    data: bytes, place: str, *, cut_off: bool = False
) -> tuple[Telemetry, tuple[str, ...]]:
    """Read the telemetry of one rank.

    Args:
        data: the file's bytes.
        place: the file's name, for messages.
        cut_off: the run ended early, so its last line may be half written; it is left out then.

    Returns:
        The telemetry, and notes about what was left out.

    Raises:
        EvidenceError: a line is no telemetry, as `place:line: what`.
    """
    tables = {kind: _Columns(names) for kind, names in _MEASURED.items()}
    events: list[Event] = []
    facts: dict[str, Any] = {}
    properties: dict[str, PropertyResult] = {}
    ignored: set[str] = set()
    lines, notes = _lines(data, place, cut_off=cut_off)
    steps = _plain_steps(lines)
    left = [] if steps and len(steps) == len(lines) else enumerate(lines, start=1)
    for number, text in left:
        if not text.strip() or (steps and text.startswith(_STEP)):
            continue
        line = _parse(text, f"{place}:{number}")
        if isinstance(line, EventLine):
            events.append(Event(line.event, line.step, line.model_extra or {}))
            continue
        ignored.update(line.model_extra or ())
        if isinstance(line, FactLine):
            if facts.get(line.name, line.value) != line.value:
                notes.append(f"{place}:{number}: fact {line.name} was told otherwise before")
            facts[line.name] = line.value
        elif isinstance(line, PropertyLine):
            properties[line.name] = PropertyResult(line.name, line.examples, line.counterexample)
        else:
            said = {name: getattr(line, name) for name in line.model_fields_set}
            tables[line.kind].rows.append(said)  # type: ignore[attr-defined]  # made from METRICS
    if ignored:
        notes.append(f"{place}: unregistered keys were left out: {', '.join(sorted(ignored))}")
    series = {f"{kind}s": table.series() for kind, table in tables.items()}
    series["steps"] = steps or series["steps"]
    telemetry = Telemetry(**series, events=tuple(events), facts=facts, properties=properties)
    return telemetry, tuple(notes)


_STEP = b'{"kind":"step",'
_STEP_WORD = b'"step"'
_PLAIN = frozenset({int, float, NoneType})
_FLOATS = frozenset({float})


def _plain_steps(lines: list[bytes]) -> Series | None:
    """The steps at once; None if any is to be read like all other lines.

    Most telemetry is flat objects of the same registered finite numbers, and read ten times as fast
    like this. Lines that begin and end with a brace and hold nothing nested are whole objects; as
    many objects as lines is one a line. If any step line is not of that kind, all are left.
    """
    steps = [text for text in lines if text.startswith(_STEP)]
    text = b",\n".join(steps)
    if not steps or text.count(b"},\n{") + 1 != len(steps) or not text.endswith(b"}"):
        return None
    if len(steps) < len(lines):
        rest = [text for text in lines if not text.startswith(_STEP)]
        if any(_STEP_WORD in text for text in rest):
            return None
    try:
        rows: list[Any] = orjson.loads(b"[%b]" % text)
    except ValueError:
        return None
    if len(rows) != len(steps) or set(map(type, rows)) != {dict}:
        return None
    columns = _plain_columns(rows, colons=text.count(b":"))
    return None if columns is None else Series(columns)


def _plain_columns(
    rows: list[dict[str, Any]], colons: int
) -> dict[str, tuple[float | str | None, ...]] | None:
    names = tuple(rows[0])
    # Each pair has a colon. With no more colons than pairs that were kept, no key was there twice.
    if colons != len(rows) * len(names) or not _STEP_NAMES.issuperset(names[1:]):
        return None
    try:
        found = dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
    except KeyError:
        return None
    if set(found.pop("kind")) != {"step"}:
        return None
    numbers = found.get("step", (None,))
    if set(map(type, numbers)) != {int} or min(numbers) < 0:
        return None
    columns = {name: _plain_column(found[name]) for name in _MEASURED["step"] if name in found}
    return None if None in columns.values() else columns  # type: ignore[return-value]  # just seen


def _plain_column(column: tuple[Any, ...]) -> tuple[float | None, ...] | None:
    """Finite numbers and nulls as they are compared; None if there is anything else."""
    kinds = set(map(type, column))
    said = [value for value in column if value is not None] if NoneType in kinds else column
    if not kinds <= _PLAIN:
        return None
    # Infinite ones are beyond it too.
    if said and (max(said) > LARGEST_INTEGER or min(said) < -LARGEST_INTEGER):
        return None
    if kinds == _FLOATS:
        return column
    if NoneType not in kinds:
        return tuple(map(float, column))
    return tuple([None if value is None else float(value) for value in column])


def _lines(data: bytes, place: str, *, cut_off: bool) -> tuple[list[bytes], list[str]]:
    """Lines, some of them blank; a half-written last one is left out with a note."""
    lines = data.split(b"\n")
    last = lines[-1]
    if not last.strip():
        return lines[:-1], []
    if cut_off:
        try:
            json.loads(last.decode())
        except ValueError:
            text = f"{place}:{len(lines)}: the half-written last line was left out"
            return lines[:-1], [text]
    return lines, []


def _parse(text: bytes, where: str) -> _Line:
    try:
        value = _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as error:
        quoted = text[:SHOWN].decode("utf-8", "replace")
        raise EvidenceError(f"{where}: no telemetry line ({error}): {quoted}") from None
    return typed_line(value, where)


def typed_line(value: object, where: str) -> _Line:
    """A telemetry line in its typed form.

    Raises:
        EvidenceError: it is none; the message begins with `where`.
    """
    if not isinstance(value, dict):
        raise EvidenceError(f"{where}: not a JSON object")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in LINES:
        raise EvidenceError(f"{where}: kind {shown(kind)} is none of {', '.join(LINES)}")
    try:
        return LINES[kind].model_validate(value)
    except ValidationError as error:
        raise EvidenceError(f"{where}: {describe(error)}") from None


def _refuse(constant: str) -> float:
    raise ValueError(f'{constant} is no JSON; write "{constant}"')


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if it says a key twice: readers would disagree on what it means."""
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key is there twice")
    return mapping


def _integer(text: str) -> int:
    if len(text) > sys.float_info.max_10_exp:
        raise ValueError(f"an integer of {len(text)} characters is beyond the range of a double")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:SHOWN]} is beyond the range of a double")
    return number


_DECODER = json.JSONDecoder(
    parse_constant=_refuse, parse_int=_integer, parse_float=_float, object_pairs_hook=unique
)


def describe(error: ValidationError) -> str:
    """The first finding of pydantic in one line: `where: what`."""
    finding = error.errors(include_url=False)[0]
    where = ".".join(map(str, finding["loc"]))
    message = finding["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message

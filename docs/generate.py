"""Write the pages of this folder that are tables of the code: vocabulary, fields and faults.

`make schema` runs it; `tests/test_docs.py` keeps the pages in step with the code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pytest_gates.checks import CHECKS
from pytest_gates.checks.base import Verdict
from pytest_gates.contract.falsifiers import FAULT_NAMES
from pytest_gates.contract.load import CHECK_KINDS
from pytest_gates.contract.models import Expectation, GpuRow, Waiver
from pytest_gates.contract.runs import DRIVERS
from pytest_gates.evidence import CONTAMINATING_REASONS
from pytest_gates.model.config import PRESETS, Architecture
from pytest_gates.model.faults import FAULTS
from pytest_gates.model.telemetry import EVENTS, METRICS, STATUS_MEANINGS, STATUSES
from pytest_gates.report.catalogue import catalogue
from pytest_gates.results import Mode, Status
from pytest_gates.schema.documented import Documented
from pytest_gates.settings import INI_OPTIONS
from pytest_gates.vocabulary import DISCHARGE_STATUSES, GPUS, THROTTLE_REASONS

FOLDER = Path(__file__).parent
MADE = "Written by `make schema` from the code; a test keeps it in step."
LARGEST = 2**53
"""A bound that every integer of a run has; not worth a mention in each row."""
FEW = 9
"""Words of a closed list that a cell shows."""

VERDICTS = {
    Verdict.FAIL: "measured, and the claim does not hold",
    Verdict.INCONCLUSIVE: "measured, but the measurement cannot decide",
    Verdict.BLOCKED: "cannot be run here, and no evidence matches; never written to a contract",
    Verdict.PENDING: "never judged; also how a word that is no verdict is read",
    Verdict.PASS: "measured, and the claim holds",
}
STATES = {
    Status.PASS: ("green", "the gate's verdict is `pass`"),
    Status.CAUGHT: ("green", "a falsifier: its gate went red for the expected reason"),
    Status.FAIL: ("red", "the gate's verdict is `fail`"),
    Status.INCONCLUSIVE: ("red", "the gate's verdict is `inconclusive`"),
    Status.SURVIVED: ("red", "a falsifier: its gate did not go red for the expected reason"),
    Status.UNFOUNDED: ("red", "the contract claims a verdict that no record carries"),
    Status.TAMPERED: ("red", "a record, its evidence or the basis is not what it was"),
    Status.ERROR: ("red", "it could not be judged at all: the one line says why"),
    Status.BLOCKED: ("skip; red in strict and live mode", "nothing could be judged"),
    Status.UNARMED: ("red, in strict mode only", "the gate passes and was never seen red"),
}
MODES = {
    Mode.LIVE: "executed in this session",
    Mode.REPLAYED: "judged again from recorded evidence; red in live mode",
    Mode.DECLARED: "files that existed already; configuration and host are somebody's word",
    Mode.NONE: "nothing was judged",
}
SCOPES = {"step": "a step", "epoch": "a validation", "slot": "a slot of a layer"}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def code(word: object) -> str:
    """A word as code."""
    return f"`{word}`"


# --- vocabulary.md -------------------------------------------------------------------------------


def vocabulary() -> str:
    """Every word with a fixed meaning, one table a kind."""
    sections: dict[str, tuple[str, str]] = {
        "Metrics": (
            "A name's suffix is its unit. A contract that names another metric is refused.",
            table(
                ("metric", "unit", "once", "meaning"),
                [(code(m.name), m.unit or "-", SCOPES.get(m.scope, m.scope), m.meaning)
                 for m in METRICS.values()],
            ),
        ),
        "Events": (
            "Said once a run unless the table says otherwise.",
            table(("event", "meaning"), [(code(k), v) for k, v in EVENTS.items()]),
        ),
        "Exit statuses": (
            "How a run ended. A status without a code is told by the process outside.",
            table(
                ("status", "exit code", "meaning"),
                [(code(name), "-" if number is None else number, STATUS_MEANINGS[name])
                 for name, number in STATUSES.items()],
            ),
        ),
        "Verdicts": (
            "Of a gate, worst first; a gate's verdict is the worst of its checks'.",
            table(("verdict", "meaning"), [(code(v), VERDICTS[v]) for v in Verdict]),
        ),
        "Statuses of an item": (
            "What a session says of a gate or a falsifier.",
            table(
                ("status", "in pytest", "meaning"),
                [(code(s), *STATES.get(s, ("", ""))) for s in Status],
            ),
        ),
        "Evidence of a session": (
            "Where the evidence behind a status came from.",
            table(("word", "meaning"), [(code(m), MODES.get(m, "")) for m in Mode]),
        ),
        "Discharge statuses": (
            "How far a record discharges its gate, weakest first.",
            table(("status", "meaning"), [(code(k), v) for k, v in DISCHARGE_STATUSES.items()]),
        ),
        "GPUs": (
            "By the name that NVML gives. A contract's `gpus:` block adds rows.",
            table(
                ("name", "dense bf16 matmul peak with fp32 accumulation, TFLOP/s", "source"),
                [(code(g.name), f"{g.bf16_tflops:g}", g.source) for g in GPUS.values()],
            ),
        ),
        "Clock event reasons": (
            "NVML's bits. A step that is timed under a contaminating one may be slower than it is.",
            table(
                ("bit", "name", "contaminates"),
                [(f"`0x{bit:03x}`", name, "yes" if bit & CONTAMINATING_REASONS else "no")
                 for bit, name in THROTTLE_REASONS.items()],
            ),
        ),
        "Presets": ("Architectures by name.", _presets()),
        "Faults": (
            "What a falsifier may inject.",
            table(
                ("fault", "what it does", "the incident it comes from"),
                [(code(name), fault.meaning, fault.incident)
                 for name, fault in FAULT_NAMES.items()],
            ),
        ),
        "pytest's configuration": (
            "Options of `pytest.ini` or `[tool.pytest.ini_options]`.",
            table(
                ("option", "default", "meaning"),
                [(code(name), usual or "-", text) for name, (usual, text) in INI_OPTIONS.items()],
            ),
        ),
    }  # fmt: skip
    return _page("Vocabulary", sections)


def _presets() -> str:
    rows = [
        (code(name), *(getattr(one, field) for field in Architecture.model_fields
                       if field not in {"rope_theta", "norm_eps"}), f"{one.parameters:,}")
        for name, one in PRESETS.items()
    ]  # fmt: skip
    fields = [name for name in Architecture.model_fields if name not in {"rope_theta", "norm_eps"}]
    return table(("preset", *fields, "parameters"), rows)


def _page(title: str, sections: Mapping[str, tuple[str, str]]) -> str:
    contents = " · ".join(f"[{name}](#{anchor(name)})" for name in sections)
    parts = [f"# {title}", MADE, contents]
    for name, (lead, body) in sections.items():
        parts += [f"## {name}", *filter(None, (lead, body))]
    return "\n\n".join(parts) + "\n"


def anchor(name: str) -> str:
    """The anchor that GitHub gives a heading."""
    return "".join(c for c in name.lower().replace(" ", "-") if c.isalnum() or c in "-_")


# --- fields.md -----------------------------------------------------------------------------------


def fields() -> str:
    """Every field of every executable block of a contract."""
    models: dict[str, type[BaseModel]] = {
        **{f"driver: {name}": model for name, model in DRIVERS.items()},
        **{f"kind: {name}": CHECK_KINDS[name] for name in CHECK_KINDS},
        **{f"fault: {name}": FAULT_NAMES[name] for name in FAULT_NAMES},
        "expect": Expectation,
        "waiver": Waiver,
        "gpus": GpuRow,
    }
    assert len(CHECKS) == len(CHECK_KINDS)
    assert len(FAULTS) == len(FAULT_NAMES)
    blocks: dict[str, dict[str, Any]] = {}
    sections = {}
    for name, model in models.items():
        schema = model.model_json_schema(schema_generator=Documented)
        blocks |= schema.get("$defs", {})
        sections[name] = (_lead(schema), _fields(schema))
    for name, schema in sorted(blocks.items()):
        if "properties" in schema:
            sections[name] = (_lead(schema), _fields(schema))
    return _page("Fields of the executable blocks", sections)


def _lead(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split("\n\n")[0].split())


def _fields(schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    discriminators = {"driver", "kind", "fault", "name"}
    rows = [
        (
            code(name),
            form(field),
            "required" if name in required else code(_yaml(field.get("default"))),
            field.get("description", ""),
        )
        for name, field in schema["properties"].items()
        if name not in discriminators or "const" not in field
    ]
    return table(("field", "form", "default", "meaning"), rows) if rows else "No further fields."


def _yaml(value: object) -> str:
    if value is None or isinstance(value, dict):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return json.dumps(value) if isinstance(value, str) and not value.isprintable() else str(value)


def form(field: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one return a form
    """How a field is written, in a few words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{anchor(name)})"
    if "const" in field:
        return code(field["const"])
    if "enum" in field:
        words = [code(word) for word in field["enum"]]
        return ", ".join(words) if len(words) <= FEW else "[vocabulary](vocabulary.md)"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in field:
            forms = [form(one) for one in field[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(forms)).replace("number or integer", "number")
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"[{', '.join(form(one) for one in field['prefixItems'])}]"
        return f"list of {form(field.get('items', {}))}"
    if field.get("type") == "object":
        return "mapping"
    return _plain(field)


def _plain(field: Mapping[str, Any]) -> str:
    word = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items()
              if key in field and field[key] != LARGEST]  # fmt: skip
    told = " ".join([word.get(field.get("type", ""), "any"), ", ".join(bounds)]).strip()
    return f"{told} like `{field['pattern']}`" if "pattern" in field else told


PAGES = {
    FOLDER / "vocabulary.md": vocabulary,
    FOLDER / "fields.md": fields,
    FOLDER / "faults.md": catalogue,
}


def main() -> int:
    """Write every page."""
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

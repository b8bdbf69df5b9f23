"""The JSON Schema of a telemetry line, built from the models that read it."""

from __future__ import annotations

from typing import Any

from pytest_gates.readers.telemetry import LINES
from pytest_gates.schema.documented import Documented


def telemetry_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one telemetry line."""
    definitions: dict[str, Any] = {}
    for line in LINES.values():
        schema = line.model_json_schema(schema_generator=Documented)
        definitions.update(schema.pop("$defs", {}))
        definitions[line.__name__] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of pytest-gates telemetry",
        "description": "telemetry-<rank>.jsonl holds one such object a line.",
        "oneOf": [{"$ref": f"#/$defs/{line.__name__}"} for line in LINES.values()],
        "$defs": definitions,
    }

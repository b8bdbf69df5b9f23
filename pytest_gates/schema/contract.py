"""The JSON Schema of a contract, built from the models that load it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from pytest_gates.checks import CHECKS
from pytest_gates.contract.falsifiers import FAULT_NAMES
from pytest_gates.contract.load import CHECK_KINDS
from pytest_gates.contract.models import Expectation, GpuRow, Waiver
from pytest_gates.contract.runs import DRIVERS
from pytest_gates.model.faults import FAULTS
from pytest_gates.schema.documented import Documented
from pytest_gates.vocabulary import DISCHARGE_STATUSES

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODE: JsonSchemaMode = "validation"
LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
INHERITS = {
    "from": {"type": "string", "description": "Run to inherit from."},
    "driver": {"enum": list(DRIVERS), "description": "That of the run it inherits from."},
}


class _Generate(Documented):
    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        """Keep the models' own order: it is the order people write the keys in."""
        return value


def contract_schema() -> dict[str, Any]:
    """The schema: executable blocks are closed, everything else in a contract is open."""
    models: list[type[BaseModel]] = [
        *DRIVERS.values(),
        *CHECKS,
        *FAULTS,
        Expectation,
        Waiver,
        GpuRow,
    ]
    refs, definitions = models_json_schema(
        [(model, MODE) for model in models],
        ref_template="#/$defs/{model}",
        schema_generator=_Generate,
    )
    named = {model: refs[(model, MODE)] for model in models}
    defs: dict[str, Any] = _standard(definitions["$defs"])
    drivers = {name: named[model] for name, model in DRIVERS.items()}
    partial = _partial_run(list(drivers.values()), defs)
    defs["Run"] = {
        "if": {"required": ["from"]},
        "then": _closed(INHERITS | partial),
        "else": _chosen("driver", drivers),
    }
    defs["Check"] = _chosen("kind", {name: named[one] for name, one in CHECK_KINDS.items()})
    defs["Fault"] = _chosen("fault", {name: named[one] for name, one in FAULT_NAMES.items()})
    defs["Gate"] = _gate(named[Waiver])
    defs["Falsifier"] = _falsifier(named[Expectation], partial)
    return {
        "$schema": DIALECT,
        "title": "pytest-gates contract",
        "description": "Runs, gates and falsifiers; every other key is prose and is left alone.",
        "type": "object",
        "properties": {
            "contract_id": {"type": "string", "description": "Names the contract in the ledger."},
            "version": {"type": "string", "description": "x.y.z; a changed verdict raises y."},
            "metadata": {"type": "object"},
            "runs": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Run"}},
            "gates": {"type": "array", "items": {"$ref": "#/$defs/Gate"}},
            "falsification_tests": {"type": "array", "items": {"$ref": "#/$defs/Falsifier"}},
            "gpus": {"type": "object", "additionalProperties": named[GpuRow]},
        },
        "$defs": defs,
    }


def _standard(schema: Any) -> Any:
    """A schema of pydantic's in the words that JSON Schema and editors know.

    Limits of a union keep pydantic's own names, titles repeat the keys, and `$` lets a final
    newline through where the pattern is not anchored otherwise.
    """
    if isinstance(schema, list):
        return [_standard(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        LIMITS.get(key, key): _standard(value)
        for key, value in schema.items()
        if key != "discriminator" and not (key == "title" and isinstance(value, str))
    }
    if plain.get("anyOf") == [{"type": "number"}, {"type": "integer"}]:
        del plain["anyOf"]
        plain = {"type": "number", **plain}
    pattern = plain.get("pattern")
    if isinstance(pattern, str) and pattern.endswith("$"):
        plain["pattern"] = f"{pattern}(?!\\n)"
    return plain


def _chosen(key: str, by_name: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One of several blocks, told by one key: so an editor names the mistake within the block."""
    return {
        "type": "object",
        "properties": {key: {"enum": list(by_name)}},
        "required": [key],
        "allOf": [
            {"if": {"properties": {key: {"const": name}}, "required": [key]}, "then": block}
            for name, block in by_name.items()
        ],
    }


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _partial_run(drivers: list[dict[str, Any]], defs: dict[str, Any]) -> dict[str, Any]:
    """Keys of a run that is merged into another one: the same for every driver, none required."""
    forms: dict[str, list[Any]] = {}
    for driver in drivers:
        for key, schema in _of(driver, defs)["properties"].items():
            form = _partial(schema, defs)
            if key != "driver" and form not in forms.setdefault(key, []):
                forms[key].append(form)
    return {key: many[0] if len(many) == 1 else {"anyOf": many}
            for key, many in forms.items() if many}  # fmt: skip


def _partial(schema: Any, defs: dict[str, Any]) -> Any:
    """A setting whose blocks may lack what the run below them says."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        block = _of(schema, defs)
        if "properties" not in block:
            return schema
        closed = _closed({key: _partial(one, defs) for key, one in block["properties"].items()})
        return {key: schema[key] for key in ("description",) if key in schema} | closed
    unions = {"oneOf": "anyOf", "anyOf": "anyOf"}
    return {unions.get(key, key): [_partial(one, defs) for one in value] if key in unions else value
            for key, value in schema.items() if key != "default"}  # fmt: skip


def _of(reference: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = defs[reference["$ref"].rpartition("/")[2]]
    return block


def _gate(waiver: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "rule": {"type": "string", "description": "What is claimed, for people."},
            "run": {"type": "string", "description": "Name of the run the checks look at."},
            "checks": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Check"}},
            "requires": {"type": "object", "description": "Settings the evidence must have."},
            "verdict": {"type": "string", "description": "Written back; start with `pending`."},
            "verdict_basis": {"description": "Written back with each verdict."},
            "discharge_status": {
                "description": "Written back where it is there; words of other teams are kept.",
                "anyOf": [{"enum": list(DISCHARGE_STATUSES)}, {"type": "string"}],
            },
            "ship_blocking": {"type": "boolean"},
            "if_fails": {"type": "string", "description": "Shown when the gate is red."},
            "waiver": waiver,
        },
    }


def _falsifier(expectation: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "rule": {"type": "string"},
            "binds_to": {"type": "string", "description": "Id of the gate to prove wrong."},
            "inject": {"$ref": "#/$defs/Fault"},
            "shorten": {"description": "Settings that make the run cheaper."} | _closed(run),
            "expect": expectation,
            "if_fails": {"type": "string"},
        },
    }

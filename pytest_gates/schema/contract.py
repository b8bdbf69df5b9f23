"""The JSON Schema of a contract, built from the models that load it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from pytest_gates.checks import CHECKS
from pytest_gates.contract.models import Expectation, GpuRow, Waiver
from pytest_gates.contract.runs import DRIVERS
from pytest_gates.model.faults import FAULTS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODE: JsonSchemaMode = "validation"


class _Generate(GenerateJsonSchema):
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
    defs: dict[str, Any] = definitions["$defs"]
    named = {model: refs[(model, MODE)] for model in models}
    defs["Run"] = _run([named[model] for model in DRIVERS.values()], defs)
    defs["Check"] = {"oneOf": [named[model] for model in CHECKS]}
    defs["Fault"] = {"oneOf": [named[model] for model in FAULTS]}
    defs["Gate"] = _gate(named[Waiver])
    defs["Falsifier"] = _falsifier(named[Expectation])
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


def _run(drivers: list[dict[str, Any]], defs: dict[str, Any]) -> dict[str, Any]:
    """A whole run by its driver, or one that inherits: the same keys, none of them required."""
    inherited: dict[str, Any] = {"from": {"type": "string", "description": "Run to inherit from."}}
    for driver in drivers:
        properties = defs[driver["$ref"].rpartition("/")[2]]["properties"]
        for key, schema in properties.items():
            inherited.setdefault(key, {"anyOf": []})
            if schema not in inherited[key].get("anyOf", [schema]) and key != "from":
                inherited[key]["anyOf"].append(schema)
    inherited["driver"] = {"type": "string"}
    return {
        "if": {"required": ["from"]},
        "then": {"type": "object", "properties": _open(inherited), "additionalProperties": False},
        "else": {"oneOf": drivers},
    }


def _open(properties: dict[str, Any]) -> dict[str, Any]:
    """Blocks of an inheriting run are merged into their parents', so they may be partial."""
    blocks = {"data", "optimizer", "host", "declares", "resume"}
    return {key: {"type": "object"} if key in blocks else schema
            for key, schema in properties.items()}  # fmt: skip


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
            "discharge_status": {"type": "string"},
            "ship_blocking": {"type": "boolean"},
            "if_fails": {"type": "string", "description": "Shown when the gate is red."},
            "waiver": waiver,
        },
    }


def _falsifier(expectation: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "rule": {"type": "string"},
            "binds_to": {"type": "string", "description": "Id of the gate to prove wrong."},
            "inject": {"$ref": "#/$defs/Fault"},
            "shorten": {"type": "object", "description": "Settings that make the run cheaper."},
            "expect": expectation,
            "if_fails": {"type": "string"},
        },
    }

"""The published schema of a contract: in step with the loader, and of use in an editor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from loading import RUN, gate, refused
from project import dedented

from pytest_gates.checks import CHECKS
from pytest_gates.contract.nodes import parse_document, to_data
from pytest_gates.contract.runs import DRIVERS
from pytest_gates.model.faults import FAULTS
from pytest_gates.schema import CONTRACT, TELEMETRY, published
from pytest_gates.schema.contract import contract_schema
from pytest_gates.schema.telemetry import telemetry_schema
from pytest_gates.starters import Answers, filled

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"# yaml-language-server: \$schema=(\S+)")
VALIDATOR = jsonschema.Draft202012Validator(published())


def mistakes(text: str) -> list[str]:
    data = to_data(parse_document(text, "c.yaml"))
    return [error.message for error in VALIDATOR.iter_errors(data)]


def yaml_files() -> list[Path]:
    """Every contract of the project itself: no copy, no template, none that teams take along."""
    found = [path for pattern in ("*.yaml", "*.yml") for path in ROOT.rglob(pattern)]
    below = [path.relative_to(ROOT) for path in found]
    return sorted(
        path
        for path in below
        if not any(part.startswith((".", "build", "starters", "examples")) for part in path.parts)
    )


def test_make_schema_gives_the_same_bytes() -> None:
    for path, schema in ((CONTRACT, contract_schema()), (TELEMETRY, telemetry_schema())):
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        assert path.read_text(encoding="utf-8") == text, "run `make schema`"


def test_both_are_schemas() -> None:
    for schema in (contract_schema(), telemetry_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", yaml_files(), ids=str)
def test_every_contract_in_the_repository_names_the_schema_and_keeps_it(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    named = NAMED.match(text)
    assert named is not None, "the first line names the schema, for editors"
    assert ((ROOT / path).parent / named[1]).resolve() == CONTRACT.resolve()
    assert mistakes(text) == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*/contracts/*.yaml")), ids=lambda path: path.stem
)
def test_every_example_keeps_the_schema(path: Path) -> None:
    assert mistakes(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("kind", ["training", "gpu", "forward"])
def test_every_starter_keeps_the_schema(kind: str) -> None:
    answers = Answers(name="x", kind=kind, gpu="NVIDIA H200", budget_ms=60.0)
    assert mistakes(filled(answers)) == []


def test_there_are_contracts_to_look_at() -> None:
    assert len([path for path in yaml_files() if path.parts[0] == "contracts"]) >= 2


GOOD = {
    "inherits": RUN + "  child: {from: base, data: {tokenizer: bytes}, optimizer: {lr: 0.5}}\n",
    "takes a block away": RUN + "  child: {from: base, stimulus: null, timeout_s: null}\n",
    "part of a block": RUN
    + "    stimulus: {kind: kill, step: 3}\n  child: {from: base, stimulus: {step: 4}}\n",
    "prose": "gates:\n  - {id: G, rule: x, verdict: active, anything: [1, {a: 2}]}\nmore: prose\n",
    "budget": RUN
    + gate("{kind: budget, metric: wall_ms, steps: [20, 99], below: {NVIDIA H200: 6}}"),
    "equal": RUN + gate("{kind: equal_runs, of: {run: base, repeat: 2}, tolerance: 1.0e-5}"),
    "several": RUN + gate("{kind: exit_status, expect: [COMPLETED, KILLED], within_s: 2.0}"),
    "gpus": "gpus: {NVIDIA X: {bf16_tflops: 500, source: s}}\n",
    "waiver": "gates:\n  - {id: G, waiver: {reason: r, owner: o, until: 2027-01-01}}\n",
    "falsifier": RUN
    + gate("{kind: finite, metrics: [train_loss]}")
    + dedented(
        """
        falsification_tests:
          - id: F
            binds_to: G
            inject: {fault: slow_step, ms: 3}
            shorten: {steps: 20, optimizer: {warmup_steps: 1}}
            expect: {verdict: fail, check: finite}
        """
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_the_loader_takes_the_schema_takes(text: str) -> None:
    assert refused(text, "") == []
    assert mistakes(text) == []


BUDGET = "{kind: budget, metric: wall_ms, steps: [20, 99], below: 60}"
BAD = {
    "key of a run": RUN.replace("steps", "stpes"),
    "key of an inheriting run": RUN + "  child: {from: base, stpes: 3}\n",
    "key of a block": RUN.replace("corpus", "corpsu"),
    "key of an inherited block": RUN + "  child: {from: base, optimizer: {rate: 3}}\n",
    "key of a check": RUN + gate(BUDGET.replace("below", "bellow")),
    "key of a waiver": "gates:\n  - {id: G, waiver: {reason: r, owner: o, till: 2027-01-01}}\n",
    "key of a fault": "falsification_tests: [{id: F, inject: {fault: slow_step, mss: 3}}]\n",
    "key of a GPU": "gpus: {X: {bf16_tflops: 500, sourc: s}}\n",
    "driver": RUN.replace("pretrain", "pretain"),
    "no driver": "runs: {a: {device: cpu}}\n",
    "check": RUN + gate("{kind: budgets}"),
    "no checks": "gates:\n  - {id: G, checks: []}\n",
    "fault": "falsification_tests: [{id: F, inject: {fault: slow_stp}}]\n",
    "metric": RUN + gate(BUDGET.replace("wall_ms", "wall")),
    "text for a number": RUN + gate(BUDGET.replace("60", "60 ms")),
    "window": RUN + gate(BUDGET.replace("[20, 99]", "3")),
    "device": RUN.replace("cuda:0", "cuda:16"),
    "device with a line's end": RUN.replace("cuda:0", '"cuda\\n"'),
    "negative": RUN + "    optimizer: {lr: -1}\n",
    "setting missing": RUN.replace("    seq_len: 64\n", ""),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_the_schema_refuses_the_loader_refuses_too(text: str) -> None:
    assert mistakes(text)
    assert refused(text, "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BAD["key of a run"], "'stpes' was unexpected"),
        (BAD["key of a check"], "'bellow' was unexpected"),
        (BAD["check"], "'budgets' is not one of ['budget', "),
        (BAD["driver"], "'pretain' is not one of ['pretrain', "),
    ],
)
def test_an_editor_names_the_mistake_and_not_all_blocks_that_it_is_not(
    text: str, told: str
) -> None:
    assert any(told in message for message in mistakes(text)), mistakes(text)


def test_every_block_and_every_key_of_a_run_and_a_check_has_its_words() -> None:
    defs = contract_schema()["$defs"]
    blocks = [one.__name__ for one in (*DRIVERS.values(), *CHECKS, *FAULTS)]
    assert [name for name in blocks if not defs[name].get("description")] == []
    keys = {
        f"{one.__name__}.{key}": form
        for one in (*DRIVERS.values(), *CHECKS)
        for key, form in defs[one.__name__]["properties"].items()
    }
    # What tells blocks apart explains itself.
    assert [key for key, form in keys.items() if not {"description", "const"} & form.keys()] == []

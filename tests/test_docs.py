"""The pages keep step with the code: tables, examples, links and the names of things."""

from __future__ import annotations

import functools
import importlib.util
import re
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pytest_gates.checks.binomial import bare_minimum, critical_counts
from pytest_gates.checks.budget import QUANTILES
from pytest_gates.contract.load import CHECK_KINDS, contract_from
from pytest_gates.contract.runs import DRIVERS, Caps

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("[bc]*/README.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@functools.cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples(text: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def yaml_blocks(page: Path) -> list[str]:
    return examples(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["vocabulary.md", "fields.md"])
def test_the_tables_are_those_of_the_code(name: str) -> None:
    page = generator().PAGES[DOCS / name]
    in_step = page() == (DOCS / name).read_text(encoding="utf-8")
    assert in_step, f"docs/{name} is not what the code says; run `make schema`"


@functools.cache
def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {generator().anchor(name) for name in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    broken = []
    for link in (one or other for one, other in LINK.findall(text)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


RUNS = """
runs:
  gpu: {driver: pretrain, device: "cuda:0", model: llama-1m, data: {corpus: python-stdlib},
        seq_len: 64, batch_size: 2, steps: 100}
  forward: {driver: forward, device: cpu, model: llama-1m, properties: [{name: causality}],
            against: {backward: true}, sketch: true}
  strict: {from: gpu, deterministic: true}
  other-seed: {from: strict, seed: 1}
  told: {from: gpu, anatomy: 10, statistics: [0], checkpoint: epoch}
  ranks: {from: gpu, device: cuda, launch: {processes: 2}}
  fast: {from: gpu}
  eager: {from: gpu, execution: eager}
  gguf: {from: forward, seed: 1}
  safetensors: {from: forward, seed: 2}
gates:
  - id: G
    run: %s
    checks:
%s
"""
RUN_OF = dict.fromkeys(("property", "trace_spike", "trace_parity", "same_input"), "forward")
RUN_OF |= dict.fromkeys(("anatomy", "layer_statistics", "artifacts"), "told")
RUN_OF |= {"equal_ranks": "ranks"}
"""The run that a check is shown over, where it is not `gpu`."""


def test_the_straight_line_leads_to_every_file_beside_it() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "pytest_gates"
    files = {one.name for one in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{one.parent.name}/" for one in package.glob("*/__init__.py")}
    assert {name for name in files | folders if f"`{name}" not in page} == set()


def test_every_check_has_its_section_with_an_example_that_loads() -> None:
    page = (DOCS / "checks.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert [kind for kind in CHECK_KINDS if kind not in sections] == []
    blocks = [(kind, block) for kind in CHECK_KINDS for block in examples(sections[kind])]
    assert {kind for kind, _ in blocks} == set(CHECK_KINDS)
    assert len(blocks) == len(yaml_blocks(DOCS / "checks.md")), "an example outside of a section"
    for kind, block in blocks:
        assert {check["kind"] for check in yaml.safe_load(block)} == {kind}
        indented = "".join(f"      {line}\n" for line in block.splitlines())
        contract_from(RUNS % (RUN_OF.get(kind, "gpu"), indented), "x.yaml", Caps())


def test_the_language_names_every_check() -> None:
    text = (DOCS / "contract-language.md").read_text(encoding="utf-8")
    assert [kind for kind in CHECK_KINDS if f"[`{kind}`](checks.md#{kind})" not in text] == []


def test_every_example_of_the_language_loads() -> None:
    page = DOCS / "contract-language.md"
    runs, gates, falsifiers, gpus = (
        next(block for block in yaml_blocks(page) if block.startswith(f"{key}:"))
        for key in ("runs", "gates", "falsification_tests", "gpus")
    )
    budget = """\
  - id: GATE-GPU-004
    run: pretrain-370m
    checks:
      - {kind: budget, metric: wall_ms, steps: [20, 99], below: {NVIDIA L40: 900}}
"""
    contract = contract_from(runs + gates + budget + falsifiers + gpus, "x.yaml", Caps())
    assert [item.id for item in contract.items] == [
        "GATE-GPU-003", "GATE-GPU-004", "FALSIFY-GPU-004",
    ]  # fmt: skip
    assert contract.runs["nan-at-7"].driver == "pretrain"


def test_every_example_of_your_own_trainer_loads() -> None:
    runs, ranks, telemetry = yaml_blocks(DOCS / "your-own-trainer.md")
    indented = "".join(f"    {line}\n" for line in telemetry.splitlines())
    other = f"  other:\n    driver: command\n    argv: [x]\n    device: cpu\n{indented}"
    for text in (runs + other, ranks):
        contract = contract_from(text, "x.yaml", Caps())
        assert {run.driver for run in contract.runs.values()} == {"command"}
    assert [gate.id for gate in contract.gates] == ["GATE-TOGETHER"]


def test_the_language_names_every_driver() -> None:
    text = (DOCS / "contract-language.md").read_text(encoding="utf-8")
    assert [name for name in DRIVERS if f"`{name}`" not in text] == []


def rows(page: Path, head: str) -> list[list[str]]:
    """Cells of the table that begins with `head`."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {head} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_table_of_needed_steps_is_computed() -> None:
    for statistic, *cells in rows(DOCS / "checks.md", "statistic"):
        for cell, alpha in zip(cells, ("0.05", "0.025", "0.01"), strict=True):
            least = bare_minimum(1 - QUANTILES[statistic], Fraction(alpha))
            assert cell == f"{least}, {-(-least * 17 // 10)}"


def test_the_table_of_medians_is_computed() -> None:
    for n, *cells in rows(DOCS / "checks.md", "n"):
        for cell, alpha in zip(cells, ("0.05", "0.025"), strict=True):
            critical = critical_counts(int(n), Fraction(1, 2), Fraction(alpha))
            assert cell == f"{critical.passes_up_to}, {critical.fails_from}"

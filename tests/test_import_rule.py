"""Who may import whom: read from the sources, and shown to be able to fail on made-up trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parent.parent
DEFINITIONS = {
    f"pytest_gates.model.{name}" for name in ("config", "device", "telemetry", "faults", "searches")
}
MAY_IMPORT_PYTEST = {f"pytest_gates.{name}" for name in ("plugin", "items", "settings")}
CHAIN = {"evidence": 0, "checks": 1, "contract": 2, "verdict": 3}
CHAIN |= dict.fromkeys(("ledger", "writeback", "audit", "report"), 4)

When = Literal["load", "call", "types"]


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name."""

    target: str
    when: When
    """Carried out by loading the module, by calling a function in it, or under TYPE_CHECKING."""


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _imports(path: Path, module: str, known: set[str]) -> Iterator[Import]:
    def visit(node: ast.AST, when: When) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, path.name == "__init__.py")
            yield Import(base, when)
            names = (f"{base}.{alias.name}" for alias in node.names)
            yield from (Import(name, when) for name in names if name in known)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, "types")
            for child in node.orelse:
                yield from visit(child, when)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            inside: When = "call" if function and when == "load" else when
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside)

    yield from visit(ast.parse(path.read_bytes()), "load")


def _project(root: Path) -> dict[str, list[Import]]:
    """Every module of the package with its imports; `model` under its full name, once."""
    files: dict[str, Path] = {}
    for folder, prefix in (
        (root / "pytest_gates", "pytest_gates"),
        (root / "model", "pytest_gates.model"),
    ):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix == "pytest_gates" and parts[0] == "model":
                continue
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            files[".".join((prefix, *parts))] = path
    return {name: list(_imports(path, name, set(files))) for name, path in files.items()}


def _reached(project: dict[str, list[Import]], start: str, *, at_load: bool) -> set[str]:
    """Modules that `start` imports, itself or through others, parents' `__init__` included."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        module = ahead.pop()
        for found in project.get(module, ()):
            if at_load and found.when != "load":
                continue
            parts = found.target.split(".")
            names = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            ahead.extend(names - seen)
            seen |= names
    return seen


def _rank(module: str) -> int | None:
    parts = module.split(".")
    return CHAIN.get(parts[1]) if parts[0] == "pytest_gates" and len(parts) > 1 else None


def _wrongs_of(module: str, project: dict[str, list[Import]]) -> Iterator[str]:
    direct = {found.target for found in project[module]}
    tops = {target.split(".")[0] for target in direct}
    in_model = f"{module}.".startswith("pytest_gates.model.")
    in_emit = f"{module}.".startswith("pytest_gates.emit.")
    foreign = {t for t in direct if t.startswith("pytest_gates.") and ".model" not in t}
    if in_model and (foreign or "pytest_gates" in direct):
        yield "model imports the rest of pytest_gates"
    if "model" in tops:
        yield "plain model"
    if not in_emit and any(f"{target}.".startswith("pytest_gates.emit.") for target in direct):
        yield "emit is for the team's own process"
    if "torch" in tops and not (in_model or in_emit):
        yield "torch outside model and emit"
    elif not (in_model or in_emit) and "torch" in _reached(project, module, at_load=True):
        yield "loads torch"
    if module in DEFINITIONS and "torch" in _reached(project, module, at_load=False):
        yield "a definition imports torch"
    imported = {found.target.split(".")[0] for found in project[module] if found.when != "types"}
    if "pytest" in imported and module not in MAY_IMPORT_PYTEST:
        yield "pytest outside plugin, items and settings"
    if any(p.startswith("_") and p[:2] != "__" for target in direct for p in target.split(".")):
        yield "a private module"
    rank = _rank(module)
    if rank is not None:
        above = (_rank(other) for other in _reached(project, module, at_load=False))
        if any(other is not None and other > rank for other in above):
            yield "imports a later layer"


def _wrongs(root: Path) -> list[tuple[str, str]]:
    project = _project(root)
    return sorted((module, wrong) for module in project for wrong in _wrongs_of(module, project))


def test_the_project_keeps_the_rule() -> None:
    assert len(_project(ROOT)) > len(DEFINITIONS) + len(CHAIN)
    assert _wrongs(ROOT) == []


def test_tests_and_benchmarks_never_import_plain_model() -> None:
    files = [*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    assert Path(__file__) in files
    plain = {
        path.name
        for path in files
        for found in _imports(path, "", set())
        if found.target.split(".")[0] == "model"
    }
    assert plain == set()


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("model/data.py", "from pytest_gates import errors", "model imports the rest"),
        ("model/data.py", "def f():\n    import pytest_gates.errors", "model imports the rest"),
        ("pytest_gates/disk.py", "from model import config", "plain model"),
        ("pytest_gates/disk.py", "def f():\n    import torch.nn", "torch outside model"),
        ("pytest_gates/disk.py", "from pytest_gates.emit import x", "emit is for the team's own"),
        ("model/data.py", "from pytest_gates.emit import x", "emit is for the team's own"),
        ("pytest_gates/emit/loop.py", "import pytest", "pytest outside"),
        ("pytest_gates/disk.py", "from pytest_gates.model import resolve", "loads torch"),
        ("pytest_gates/disk.py", "from .model.resolve import x", "loads torch"),
        ("model/config.py", "def f():\n    import torch", "a definition imports torch"),
        (
            "model/searches.py",
            "from pytest_gates.model import resolve",
            "a definition imports torch",
        ),
        ("pytest_gates/disk.py", "def f():\n    import pytest", "pytest outside"),
        ("pytest_gates/plugin.py", "from _pytest.config import Config", "a private module"),
        ("pytest_gates/plugin.py", "import pytest._code", "a private module"),
        ("pytest_gates/evidence.py", "import pytest_gates.checks.base", "imports a later layer"),
        ("pytest_gates/checks/base.py", "from ..contract import x", "imports a later layer"),
        ("pytest_gates/contract/__init__.py", "from .. import disk", "imports a later layer"),
        ("pytest_gates/verdict.py", "from pytest_gates import ledger", "imports a later layer"),
    ],
)
def test_each_breach_is_found(tmp_path: Path, file: str, source: str, wrong: str) -> None:
    clean = {
        "model/__init__.py": "",
        "model/config.py": "import pydantic",
        "model/faults/__init__.py": "",
        "model/resolve.py": "import torch",
        "pytest_gates/__init__.py": "",
        "pytest_gates/errors.py": "",
        "pytest_gates/evidence.py": "from pytest_gates.model.config import x",
        "pytest_gates/checks/base.py": "from pytest_gates.evidence import x",
        "pytest_gates/contract/__init__.py": "",
        "pytest_gates/verdict.py": "def f():\n    from pytest_gates.model import resolve",
        "pytest_gates/ledger.py": "from .verdict import x",
        "pytest_gates/disk.py": "from pytest_gates import ledger",
        "pytest_gates/plugin.py": "import pytest",
        "pytest_gates/emit/loop.py": "import torch\nfrom pytest_gates.model import resolve",
    }
    for name, content in clean.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert _wrongs(tmp_path) == []
    (tmp_path / file).write_text(source, encoding="utf-8")
    assert any(found.startswith(wrong) for _, found in _wrongs(tmp_path))


def test_what_only_a_type_checker_imports_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("if TYPE_CHECKING:\n    import a\nelse:\n    import b\n", encoding="utf-8")
    assert list(_imports(path, "x", set())) == [Import("a", "types"), Import("b", "load")]


def test_the_plugin_loads_nothing_heavy() -> None:
    heavy = {"yaml", "pydantic", "torch", "numpy", "hypothesis"}
    show = f"import sys, pytest_gates.plugin; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

"""What is shipped: wheel and sdist hold the model modules and the schemas, and run elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pytest_gates", "model")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
CONTRACT = """\
contract_id: C-ELSEWHERE
runs:
  machine: {driver: probe, host: {cuda: hidden}}
gates:
  - id: GATE-ELSEWHERE
    run: machine
    checks: [{kind: fact, fact: cuda_devices, equals: 0}]
    verdict: pending
"""


def built(kind: str, sources: Path, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    said = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(out)],
        cwd=sources, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    (package,) = out.iterdir()
    return package


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, so that building leaves nothing in it."""
    copy = tmp_path_factory.mktemp("sources") / "project"
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", sources, tmp_path_factory.mktemp("wheel"))


def expected() -> set[str]:
    """Every module and every published file of the package, as the repo has them."""
    modules = [f"pytest_gates/{path.relative_to(ROOT / 'pytest_gates').as_posix()}"
               for path in (ROOT / "pytest_gates").rglob("*.py")]  # fmt: skip
    modules += [f"pytest_gates/model/{path.name}" for path in (ROOT / "model").glob("*.py")]
    schemas = [f"pytest_gates/schema/{path.name}"
               for path in (ROOT / "pytest_gates" / "schema").glob("*.json")]  # fmt: skip
    assert len(schemas) >= 2
    return {*modules, *schemas, "pytest_gates/py.typed"}


def test_the_wheel_holds_every_module_and_schema_and_no_plain_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected() <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pytest_gates"}


def test_a_wheel_made_from_the_sdist_is_the_same(
    sources: Path, wheel: Path, tmp_path: Path
) -> None:
    sdist = built("sdist", sources, tmp_path / "sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = built("wheel", unpacked, tmp_path / "again")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_runs_gates_outside_the_repo(wheel: Path, tmp_path: Path) -> None:
    site, project = tmp_path / "site", tmp_path / "project"
    shutil.unpack_archive(wheel, site, "zip")
    (project / "contracts").mkdir(parents=True)
    (project / "contracts" / "machine.yaml").write_text(CONTRACT, encoding="utf-8")
    environ = {key: value for key, value in os.environ.items() if key != "CI"}
    said = subprocess.run(
        # Found as it would be where it is installed: by its entry point.
        [sys.executable, "-P", "-m", "pytest", "--gates", "contracts", "--gates-record", "always"],
        cwd=project, env={**environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    assert "1 PASS" in said.stdout
    written = (project / "contracts" / "machine.yaml").read_text(encoding="utf-8")
    assert "verdict: pass" in written
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import pytest_gates.model.config as m; print(m.__file__)"],
        cwd=project, env={**environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)

"""What a pytest run that does not use `--gates` pays for the plugin being there.

Two folders of links to the installed packages, one with the plugin and its entry point, one
without: nothing of it is on the path of the second, not even its metadata.
"""

from __future__ import annotations

import site
import tomllib
from pathlib import Path

from benchmarks.measure import ROOT, Spread, cost, environment, in_turns, report, scratch, spread
from benchmarks.measure import pytest_command as pytest

REPETITIONS = 25


def main() -> None:
    with scratch() as folder:
        (folder / "test_one.py").write_text("def test_one():\n    assert True\n", encoding="utf-8")
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        without, installed = folder / "without", folder / "installed"
        _link_packages(without)
        _link_packages(installed)
        _install(installed)
        sides = {}
        for name, packages in (("without", without), ("installed", installed)):
            env = environment(folder / "bytecode") | {"PYTHONPATH": str(packages)}
            command = [*pytest("-q", "test_one.py")]
            command.insert(1, "-S")  # site-packages themselves would bring the plugin back
            sides[name] = lambda command=command, env=env: cost(command, folder, env)
        costs = in_turns(sides, REPETITIONS)
    pairs = list(zip(costs["installed"], costs["without"], strict=True))
    report(
        "plugin_cost",
        {
            "extra_cpu_ms": _extra([(a.cpu_s, b.cpu_s) for a, b in pairs]),
            "extra_wall_ms": _extra([(a.wall_s, b.wall_s) for a, b in pairs]),
            "whole_run_cpu_s": spread([b.cpu_s for _, b in pairs]),
        },
        costs,
    )


def _extra(pairs: list[tuple[float, float]]) -> Spread:
    return spread([(a - b) * 1e3 for a, b in pairs])


def _link_packages(folder: Path) -> None:
    folder.mkdir()
    for packages in site.getsitepackages():
        for one in Path(packages).iterdir():
            ours = one.name.startswith(("pytest_gates", "__editable__"))
            if not ours and one.suffix != ".pth" and not (folder / one.name).exists():
                (folder / one.name).symlink_to(one)


def _install(folder: Path) -> None:
    """As a wheel would lie there."""
    (folder / "pytest_gates").symlink_to(ROOT / "pytest_gates")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["pytest11"]
    metadata = folder / f"pytest_gates-{project['version']}.dist-info"
    metadata.mkdir()
    head = f"Metadata-Version: 2.1\nName: pytest-gates\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head, encoding="utf-8")
    lines = ["[pytest11]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = sorted({*(ROOT / "pytest_gates").rglob("*.py"), *(ROOT / "model").rglob("*.py")})
    record = [f"{one.relative_to(ROOT).as_posix()},,\n" for one in files]
    (metadata / "RECORD").write_text("".join(record), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The HTML report: one file that opens from disk, without scripts and without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gates.errors import GatesError
from pytest_gates.report.view import Page

if TYPE_CHECKING:
    from jinja2 import Environment

NEEDED = ("jinja2", "vl_convert")
REMEDY = "the HTML report needs an extra: pip install 'pytest-gates[report]'"
WORDS = {
    "PASS": ("passes", "pass"),
    "FAIL": ("fails", "fail"),
    "INCONCLUSIVE": ("is inconclusive", "are inconclusive"),
    "BLOCKED": ("is blocked", "are blocked"),
}


def require_extra() -> None:
    """Say early, before hours of runs, that what draws the report is not installed.

    Raises:
        GatesError: with the remedy.
    """
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        raise GatesError(REMEDY)


def render(page: Page) -> str:
    """The whole file. Every string of a contract is escaped; only drawings go in as they are."""
    environment = _environment()
    style = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    from markupsafe import Markup  # noqa: PLC0415 - in an optional extra

    template = environment.get_template("report.html.j2")
    ours = Markup(style)  # noqa: S704 - our own file
    return template.render(page=page, sentence=sentence(page), style=ours) + "\n"


def _environment() -> Environment:
    require_extra()
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - optional

    return Environment(
        loader=PackageLoader("pytest_gates.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def sentence(page: Page) -> str:
    """The outcome in one sentence."""
    total = len(page.gates)
    if not total:
        return "No gate that could be executed."
    counts: dict[str, int] = {}
    for gate in page.gates:
        counts[str(gate.result.status)] = counts.get(str(gate.result.status), 0) + 1
    passed = counts.pop("PASS", 0)
    parts = [f"{passed} of {total} {'gate' if total == 1 else 'gates'} {_word('PASS', passed)}"]
    parts += [f"{count} {_word(status, count)}" for status, count in sorted(counts.items())]
    return ", ".join(parts) + "."


def _word(status: str, count: int) -> str:
    one, many = WORDS.get(status, (f"is {status}", f"are {status}"))
    return one if count == 1 else many

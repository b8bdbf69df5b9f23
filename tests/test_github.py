"""What a GitHub job shows: the summary's table and annotations on the contract's line."""

from __future__ import annotations

from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from project import RECORDED, Project

from pytest_gates.report.github import LIMIT_BYTES, markdown, workflow_commands
from pytest_gates.results import Mode, Result, Status

SLOW = [float(200 + step % 7) for step in range(30)]


def _result(**changes: object) -> Result:
    settings: dict[str, object] = {
        "kind": "gate", "contract": "contracts/a.yaml", "contract_id": "C-A", "subject": "GATE-A",
        "line": 7, "status": Status.PASS, "mode": Mode.LIVE, "prior": "pending",
    }  # fmt: skip
    return Result(**(settings | changes))  # type: ignore[arg-type]  # a test's own settings


def _html(results: list[Result]) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown(results))


def test_a_job_gets_the_impact_table_and_red_gates_on_their_line(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.root / "summary.md"
    summary.write_text("written by a step before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.root.parent))
    project.steps("steps.jsonl", wall_ms=SLOW)
    project.contract(RECORDED)
    result = project.run()
    below = project.root.name
    result.stdout.fnmatch_lines(
        [f"::error file={below}/contracts/claims.yaml,line=12,title=GATE-MEDIAN FAIL::median 203*"]
    )
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("written by a step before\n## Gates\n")
    assert "| GATE-MEDIAN | pending | ❌ FAIL | DECLARED | median 203 ms | &lt; 100 ms |" in text


def test_outside_of_github_nothing_is_written(project: Project) -> None:
    project.steps("steps.jsonl", wall_ms=SLOW)
    project.contract(RECORDED)
    assert "::error" not in project.run().stdout.str()


def test_words_of_a_contract_stay_text_in_markdown() -> None:
    hostile = "a|b <img src=x> `c` **d** [e](f) @org/team #1 ![g](h) &lt;"
    html = _html([_result(subject=hostile, reason="two\nlines | and more")])
    assert "<td>a|b &lt;img src=x&gt; `c` **d** [e](f) @org/team #1 ![g](h) &amp;lt;</td>" in html
    assert html.count("<tr>") == 2
    assert html.count("<td") == 7
    for made in ("<img", "<code", "<strong", "<a "):
        assert made not in html


def test_a_message_cannot_begin_another_workflow_command() -> None:
    red = _result(status=Status.FAIL, red=True, subject="A,B:C%", reason="x\n::add-mask::y\r100 %")
    (line,) = workflow_commands([red], Path("/w"), {"GITHUB_ACTIONS": "true"})
    assert line == (
        "::error file=contracts/a.yaml,line=7,title=A%2CB%3AC%25 FAIL::x%0A::add-mask::y%0D100 %25"
    )


def test_green_and_blocked_items_are_not_annotated() -> None:
    calm = [_result(), _result(status=Status.BLOCKED, mode=Mode.NONE)]
    assert list(workflow_commands(calm, Path("/w"), {"GITHUB_ACTIONS": "true"})) == []


def test_a_summary_stays_below_what_github_takes() -> None:
    many = [_result(subject=f"GATE-{index}", reason="x" * 900) for index in range(1500)]
    text = markdown(many)
    assert len(text.encode()) < LIMIT_BYTES + 1000 < 2**20
    assert "more are left out here" in text

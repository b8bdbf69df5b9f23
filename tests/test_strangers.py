"""What strangers write into evidence and contracts, and where they have us write."""

from __future__ import annotations

import json

import pytest
from project import RECORDED, Project
from test_bad_input import QUICK, assert_red

OBEYED = "\x1b[31mPASS\x1b[0m\n::error::taken over\u202e"
SHOWN = r"\u001b[31mPASS\u001b[0m\u000a::error::taken over\u202e"


def test_words_of_evidence_are_shown_never_obeyed_and_written_back(project: Project) -> None:
    """Neither a terminal nor a CI service that reads commands at the beginning of lines does."""
    lines = [{"kind": "fact", "name": "note", "value": OBEYED}, {"kind": "step", "step": 0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (project.root / "steps.jsonl").write_text(text, encoding="utf-8")
    contract = project.contract(
        RECORDED.replace(
            "{kind: budget, metric: wall_ms, steps: [0, 29], statistic: median, below: 100}",
            "{kind: fact, fact: note, equals: 3}",
        ).replace("note: kept", 'waiver: {reason: "a\\n::error::b", owner: o, until: 2999-01-01}')
    )
    result = project.run()
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["waived: GATE-MEDIAN FAIL: * by o: a ::error::b"])
    result.stdout.fnmatch_lines(["written contracts/claims.yaml: GATE-MEDIAN"])
    told = result.stdout.str()
    assert SHOWN[:30] in told
    assert "\x1b[31mPASS" not in told
    assert "\n::error" not in told
    assert "verdict: fail" in contract.read_text(encoding="utf-8")
    # What is judged again from what was recorded says the same.
    project.run().stdout.no_fnmatch_line("*TAMPERED*")


@pytest.mark.parametrize("name", ["contract_id: C-STEPS", "- id: GATE-MEDIAN"])
@pytest.mark.parametrize("what", [r"A\n::error::x", r"A\u202eB", r"A\u200bB"])
def test_an_id_is_one_line_that_shows_what_it_is(project: Project, name: str, what: str) -> None:
    key = name.partition(": ")[0]
    project.contract(RECORDED.replace(name, f'{key}: "{what}"'))
    result = project.run()
    said = [one for one in result.stdout.lines if one.startswith("contracts/claims.yaml:")]
    assert len(said) == 1
    assert "an id is one line of visible characters; found " in said[0]


def test_nothing_is_recorded_through_a_link(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For nothing would be read through it: the verdict would be lost in the next session."""
    project.steps("steps.jsonl", wall_ms=QUICK)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (project.root / "evidence").symlink_to(elsewhere)
    project.contract(RECORDED)
    assert_red(project, project.run(), "evidence: is a symbolic link; put the folder itself there")
    assert list(elsewhere.iterdir()) == []
    (project.root / "evidence").unlink()
    (project.root / "evidence").mkdir()
    (project.root / "evidence" / "records").symlink_to(elsewhere)
    assert_red(project, project.run(), "records: is a symbolic link; put the folder itself there")
    assert list(elsewhere.iterdir()) == []

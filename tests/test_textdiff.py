from __future__ import annotations

import difflib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_gates.textdiff import unified

LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d\n", "e\n", "\n"]), max_size=12)


def unified_text(old: list[str], new: list[str]) -> str:
    return "".join(unified(old, new, "c.yaml"))


@pytest.mark.skipif(shutil.which("patch") is None, reason="needs patch")
@given(LINES, LINES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_patch_makes_the_new_text_of_the_old_one(
    tmp_path: Path, old: list[str], new: list[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("".join(old), encoding="utf-8")
    diff = unified_text(old, new)
    if diff:
        subprocess.run(
            ["patch", "--quiet", "--no-backup-if-mismatch", str(path)],
            input=diff, text=True, check=True, capture_output=True,
        )  # fmt: skip
    assert (path.read_text(encoding="utf-8") if path.exists() else "") == "".join(new)


def test_equal_texts_have_no_diff() -> None:
    assert unified_text(["a\n", "b\n"], ["a\n", "b\n"]) == ""


def test_it_is_what_difflib_says_of_an_edited_contract() -> None:
    old = [line for n in range(9) for line in (f"- id: G{n}\n", "  checks:\n", "  v: pending\n")]
    new = [line.replace("pending", "pass") for line in old[:12]] + old[12:]
    expected = difflib.unified_diff(old, new, "a/c.yaml", "b/c.yaml")
    assert unified_text(old, new) == "".join(expected)


def test_a_thousand_edits_are_found_one_by_one() -> None:
    old = [line for n in range(1000) for line in (f"- id: G{n}\n", *["  x: 1\n"] * 8, "  v: p\n")]
    new = [line.replace("v: p", "v: pass") for line in old]
    lines = unified_text(old, new).splitlines()
    assert sum(line.startswith("+  ") for line in lines) == 1000
    assert sum(line.startswith("@@") for line in lines) == 1000

"""Write-back: the right bytes change, no other byte does, and nothing is half written."""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pytest_gates import writeback
from pytest_gates.contract.nodes import Sequence, node_at, parse_document, to_data
from pytest_gates.errors import WriteBackRefusedError
from pytest_gates.writeback import ContractEdit, GateEdit, diff, render, write

FIELD = Path(__file__).parent.parent.parent / "shared" / "field" / "contracts"
BASIS = ({"record": "ab" * 32, "measured": {"value": 45.1, "n": 80}, "host": "NVIDIA H200"},)
LINES = [
    f'- record: "{"ab" * 32}"',
    '  measured: {"value": 45.1, "n": 80}',
    '  host: "NVIDIA H200"',
]
CONTRACT = """\
# ── a contract → with arrows
version: 1.6.0   # raised by write-back
metadata:
  version: "1.6.0"
  changelog:
    # newest first
    - 1.6.0 first
gates:
  - id: G-1
    rule: one
    verdict: pending  # typed by nobody
    discharge_status: PENDING

  # about the second
  - id: G-2
    verdict_basis: >
      A story that people wrote,
      on two lines.
    verdict: 'active'
"""


def edit(*gates: str, verdict: str = "pass", status: str | None = None) -> ContractEdit:
    return ContractEdit(
        tuple(GateEdit(gate, verdict, BASIS, status) for gate in gates), "{version} (d): x"
    )


def changed_lines(old: str, new: str) -> tuple[list[str], list[str]]:
    lines = diff(old, new, "c.yaml").splitlines()[2:]
    return (
        [line[1:] for line in lines if line.startswith("-")],
        [line[1:] for line in lines if line.startswith("+")],
    )


def test_only_what_the_edit_names_changes() -> None:
    new = render(CONTRACT, edit("G-1", status="ACTIVE_WITH_LIVE_EVIDENCE"), "c.yaml")
    assert changed_lines(CONTRACT, new) == (
        [
            "version: 1.6.0   # raised by write-back",
            '  version: "1.6.0"',
            "    verdict: pending  # typed by nobody",
            "    discharge_status: PENDING",
        ],
        [
            "version: 1.7.0   # raised by write-back",
            '  version: "1.7.0"',
            '    - "1.7.0 (d): x"',
            "    verdict: pass  # typed by nobody",
            "    verdict_basis:",
            *(f"      {line}" for line in LINES),
            "    discharge_status: ACTIVE_WITH_LIVE_EVIDENCE",
        ],
    )


def test_a_basis_that_people_wrote_stays_as_a_note() -> None:
    new = render(CONTRACT, edit("G-2"), "c.yaml")
    data = to_data(parse_document(new, "c.yaml"))["gates"][1]
    assert "    verdict_basis_note: >\n      A story that people wrote,\n      on two" in new
    assert data["verdict_basis_note"] == "A story that people wrote, on two lines.\n"
    assert data["verdict_basis"] == list(BASIS)
    assert "    verdict: 'pass'\n    verdict_basis:\n      - record:" in new


def test_the_same_edit_twice_changes_nothing() -> None:
    once = render(CONTRACT, edit("G-1", "G-2", status="PARTIAL_ALGORITHM_LEVEL"), "c.yaml")
    twice = edit("G-1", "G-2", status="PARTIAL_ALGORITHM_LEVEL")
    assert render(once, twice, "c.yaml") == once


def test_a_new_basis_replaces_the_old_one_and_raises_no_version() -> None:
    once = render(CONTRACT, edit("G-1"), "c.yaml").replace(
        '"NVIDIA H200"\n', '"NVIDIA H200"  # trailing\n    # below\n'
    )
    longer = GateEdit("G-1", "pass", ({"record": "cd"}, {"record": "ef", "n": 1}))
    new = render(once, ContractEdit((longer,), "{version} (d): x"), "c.yaml")
    assert changed_lines(once, new) == (
        [f"      {line}" for line in LINES[:2]] + [f"      {LINES[2]}  # trailing"],
        ['      - record: "cd"', '      - record: "ef"', "        n: 1  # trailing"],
    )


# --- styles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- {id: G, verdict: fail, n: 1}", "- {id: G, verdict: pass, verdict_basis: B, n: 1}"),
        ('- {"id": "G", "verdict": "fail"}', '- {"id": "G", "verdict": "pass", verdict_basis: B}'),
        ("- {id: G}", "- {id: G, verdict: pass, verdict_basis: B}"),
        ("- {id: G, verdict: }", "- {id: G, verdict: pass, verdict_basis: B}"),
        ("- {id: G, verdict_basis: x}", "- {id: G, verdict: pass, verdict_basis: B, NOTE: x}"),
        (
            "- {id: G, verdict: fail, verdict_basis: [{record: a}]}",
            "- {id: G, verdict: pass, verdict_basis: B}",
        ),
        ("- {verdict_basis: , id: G}", "- {verdict_basis: B, id: G, verdict: pass}"),
        ("- id: G # c", "- id: G # c\n  verdict: pass\n  verdict_basis:L"),
        ("- verdict: # c\n  id: G", "- verdict: pass # c\n  verdict_basis:L\n  id: G"),
        (
            "- id: G\n  verdict:\n    fail\n    again # c",
            "- id: G\n  verdict:\n    pass # c\n  verdict_basis:L",
        ),
        (
            "- id: G\n  verdict: fail\n  verdict_basis: []  # none yet\n  n: 1",
            "- id: G\n  verdict: pass\n  verdict_basis:L  # none yet\n  n: 1",
        ),
        (
            "- id: G\n  verdict: fail\n  verdict_basis:\n  n: 1",
            "- id: G\n  verdict: pass\n  verdict_basis:L\n  n: 1",
        ),
        (
            "- id: G\n  verdict_basis: x\n  verdict_basis_note: y",
            "- id: G\n  verdict: pass\n  verdict_basis:L\n  NOTE_: x\n  NOTE: y",
        ),
    ],
)
def test_styles_of_gates(old: str, new: str) -> None:
    flow = "[" + json.dumps(BASIS[0]) + "]"
    block = "".join(f"\n    {line}" for line in LINES)
    expected = new.replace(": B", f": {flow}").replace("NOTE", "verdict_basis_note")
    expected = expected.replace("basis:L", f"basis:{block}")
    assert render(f"gates:\n{old}", edit("G"), "c.yaml") == f"gates:\n{expected}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("changelog: []", 'changelog: ["(d): x"]'),
        ("changelog: [a, b]", 'changelog: ["(d): x", a, b]'),
        ("changelog:\n- a", 'changelog:\n- "(d): x"\n- a'),
        ("metadata:\n  changelog: [a]", 'metadata:\n  changelog: ["(d): x", a]'),
        ("changelog: none", "changelog: none"),
        ("changelog:\n- version: 1.0.0\n  text: a", "changelog:\n- version: 1.0.0\n  text: a"),
        ("version: 2.9.4", "version: 2.10.0"),
        ("metadata: {version: '0.1.0'}", "metadata: {version: '0.2.0'}"),
    ],
)
def test_versions_and_changelogs(old: str, new: str) -> None:
    gates = "gates: [{id: G, verdict: pending}]\n"
    assert render(gates + old, edit("G"), "c.yaml").partition("\n")[2] == new


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates: []", "c.yaml: no gate `G`"),
        ("gates: {id: G}", "c.yaml: no gate `G`"),
        ("- a", "c.yaml: not a contract"),
        ("gates: [{id: G}, {id: G}]", "c.yaml:1:23: duplicate id `G`"),
        ("gates:\n- id: G\n  verdict: |\n    fail", "c.yaml:3:12: `verdict` is a block scalar"),
        ("gates:\n- id: G\n  verdict: !!str fail", "c.yaml:3:12: tag"),
        ("gates:\n- id: G\n  verdict: [fail]", "c.yaml:3:12: `verdict` is not a single value"),
        ("gates:\n- id: G\n  id: G", "c.yaml:3:3: duplicate key `id`"),
        ("gates:\n- id: |-\n    G", "c.yaml:2:7: `id` is a block scalar"),
        ("gates: [{id: G, discharge_status: []}]", "`discharge_status` is not a single value"),
        ("gates: [{id: G}]\nversion: 1.6", "c.yaml:2:10: `version` is no version like 1.6.0"),
        (
            "version: 1.6.0\nmetadata: {version: 1.5.0}\ngates: [{id: G}]",
            "c.yaml:2:21: `metadata.version` is 1.5.0, `version` is 1.6.0; correct one",
        ),
        ("gates: [{id: G, a: &x 1}]", "c.yaml:1:20: anchor `&x`"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused_with_its_reason(text: str, message: str) -> None:
    with pytest.raises(WriteBackRefusedError, match=re.escape(message)) as caught:
        render(text, edit("G", status="X"), "c.yaml")
    assert str(caught.value).endswith("nothing was written")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not FIELD.is_dir(), reason="no contracts of the field here")
def test_every_gate_of_every_contract_of_the_field() -> None:
    edited = 0
    for path in sorted(FIELD.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        gates = node_at(parse_document(text, path.name), ("gates",))
        for index in range(len(gates.items) if isinstance(gates, Sequence) else 0):
            before = to_data(parse_document(text, path.name))
            gate = before["gates"][index]
            new = render(text, edit(gate["id"], verdict="inconclusive", status="NEW"), path.name)
            removed, added = changed_lines(text, new)
            assert all(re.match(r"\s*(version|verdict|discharge_status): ", one) for one in removed)
            assert len(added) == len(removed) + 1 + len(LINES) + ("(d): x" in new)
            after = to_data(parse_document(new, path.name))
            assert after["gates"][index].pop("verdict_basis") == list(BASIS)
            gate["verdict"] = "inconclusive"
            gate |= {"discharge_status": "NEW"} if "discharge_status" in gate else {}
            assert after["gates"] == before["gates"]
            edited += 1
    assert edited


# --- the file -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "contracts" / "c.yaml"
    made.parent.mkdir()
    made.write_text(CONTRACT, encoding="utf-8")
    return made


def written(path: Path, change: ContractEdit, seen: str = CONTRACT) -> str:
    return write(path, seen, change, "contracts/c.yaml", path.parent.parent / "locks")


def test_a_write_gives_the_diff_and_leaves_nothing_else(path: Path) -> None:
    path.chmod(0o640)
    told = written(path, edit("G-1"))
    assert path.read_text(encoding="utf-8") == render(CONTRACT, edit("G-1"), "c.yaml")
    assert told.startswith("--- a/contracts/c.yaml\n+++ b/contracts/c.yaml\n@@ ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [one.name for one in path.parent.iterdir()] == ["c.yaml"]


def test_nothing_to_change_leaves_the_file_alone(path: Path) -> None:
    written(path, edit("G-1"))
    before = path.stat()
    assert written(path, edit("G-1"), path.read_text(encoding="utf-8")) == ""
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_byte_order_mark_line_ends_and_links_stay(path: Path, tmp_path: Path) -> None:
    old = CONTRACT.replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + old.encode())
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    write(link, old, edit("G-1"), "link.yaml", tmp_path / "locks")
    assert link.is_symlink()
    data = path.read_bytes()
    assert (
        data == b"\xef\xbb\xbf" + render(CONTRACT, edit("G-1"), "").replace("\n", "\r\n").encode()
    )


def test_what_write_back_itself_wrote_meanwhile_is_kept(path: Path) -> None:
    written(path, edit("G-2"))
    path.write_text(f"# a new comment\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    written(path, edit("G-1"))
    text = path.read_text(encoding="utf-8")
    data = to_data(parse_document(text, "c.yaml"))
    assert [gate["verdict"] for gate in data["gates"]] == ["pass", "pass"]
    assert data["version"] == data["metadata"]["version"] == "1.8.0"
    assert data["metadata"]["changelog"] == ["1.8.0 (d): x", "1.7.0 (d): x", "1.6.0 first"]
    assert text.startswith("# a new comment\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rule: one", "rule: two", "contracts/c.yaml:10:5: `gates[0].rule` was changed while"),
        ("id: G-2", "id: G-3", "contracts/c.yaml:15:5: `gates[1].id` was changed while"),
        ("gates:", "more: 1\ngates:", "contracts/c.yaml:8:1: `more` was changed while the run"),
        ("gates:", "gates: [", "contracts/c.yaml:9:3: not YAML"),
    ],
)
def test_an_edit_by_others_is_refused(path: Path, old: str, new: str, message: str) -> None:
    theirs = CONTRACT.replace(old, new)
    path.write_text(theirs, encoding="utf-8")
    with pytest.raises(WriteBackRefusedError, match=re.escape(message)):
        written(path, edit("G-1"))
    assert path.read_text(encoding="utf-8") == theirs


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond this size, as a full disk would in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # half of a module's, else
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = writes


def test_a_write_that_fails_midway_leaves_the_contract_and_no_other_file(path: Path) -> None:
    with (
        largest_file(100),
        pytest.raises(WriteBackRefusedError, match=r"c\.yaml: cannot be written: File too large"),
    ):
        written(path, edit("G-1"))
    assert path.read_text(encoding="utf-8") == CONTRACT
    assert [one.name for one in path.parent.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(("part", "message"), [("file", "the file"), ("folder", "its folder")])
def test_what_is_read_only_is_refused(path: Path, part: str, message: str) -> None:
    target = path if part == "file" else path.parent
    mode = stat.S_IMODE(target.stat().st_mode)
    target.chmod(mode & 0o555)
    try:
        with pytest.raises(WriteBackRefusedError, match=f"{message} is read-only"):
            written(path, edit("G-1"))
    finally:
        target.chmod(mode)
    assert path.read_text(encoding="utf-8") == CONTRACT


def test_a_contract_that_is_gone_is_refused(path: Path) -> None:
    path.unlink()
    with pytest.raises(WriteBackRefusedError, match="no such file; nothing was written"):
        written(path, edit("G-1"))


def test_a_lock_that_is_held_for_too_long_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, edit("G-1"))
    lock = next((path.parent.parent / "locks").iterdir())
    monkeypatch.setattr(writeback, "LOCK_TIMEOUT_S", 0.1)
    with FileLock(lock), pytest.raises(WriteBackRefusedError, match="has held its lock for"):
        written(path, edit("G-2"))


PROCESSES, GATES = 8, 40


def record(path: Path, seen: str, first: int, barrier: Any) -> None:
    writeback.LOCK_TIMEOUT_S = 600.0  # fsync may take its time, and who is next is a matter of luck
    barrier.wait()
    for gate in range(first, GATES, PROCESSES):
        written(path, edit(f"G-{gate}"), seen)


def test_many_processes_record_into_one_contract(path: Path) -> None:
    seen = "version: 1.0.0\nchangelog: []\ngates:\n" + "".join(
        f"- id: G-{gate}\n  # ── comment {gate}\n  verdict: pending  # → {gate}\n\n"
        for gate in range(GATES)
    )
    path.write_text(seen, encoding="utf-8")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    processes = [
        context.Process(target=record, args=(path, seen, first, barrier))
        for first in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    text = path.read_text(encoding="utf-8")
    data = to_data(parse_document(text, "c.yaml"))
    assert [gate["verdict"] for gate in data["gates"]] == ["pass"] * GATES
    assert all(gate["verdict_basis"] == list(BASIS) for gate in data["gates"])
    assert data["version"] == f"1.{GATES}.0"
    assert len(data["changelog"]) == GATES
    for gate in range(GATES):
        assert f"  # ── comment {gate}\n  verdict: pass  # → {gate}\n" in text
    assert [one.name for one in path.parent.iterdir()] == ["c.yaml"]

"""A contract's derived block, written anew from the ledger; git's conflict markers in it resolved.

The ledger merges by itself. The verdicts that contracts show are derived from it, so a conflict
there is no question to anybody: both sides are thrown away and the block is derived again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_gates import writeback
from pytest_gates.contract.guard import decode_contract, read_contract_bytes
from pytest_gates.contract.load import contract_from
from pytest_gates.contract.nodes import parse_document, to_data
from pytest_gates.contract.runs import Caps
from pytest_gates.errors import ContractError, WriteBackRefusedError
from pytest_gates.ledger import Readable
from pytest_gates.recording import contract_edit

Side = Literal["ours", "theirs"]

_MARKER = re.compile(r"(<{7}|\|{7}|={7}|>{7})(?: .*)?\r?\n?")
_BEGIN, _BASE, _MIDDLE, _END = "<<<<<<<", "|||||||", "=======", ">>>>>>>"


def sync(path: Path, file: str, ledger: Readable, cache: Path, *, check: bool = False) -> str:
    """Bring a contract up to its ledger; what was changed, as a unified diff, or nothing.

    Args:
        path: The contract.
        file: Its name in messages.
        ledger: The records of its project.
        cache: The project's ignored folder, where locks lie.
        check: Write nothing, only tell.

    Raises:
        GatesError: It cannot be loaded or written, or a conflict needs a person.
    """

    def synced(text: str) -> str:
        merged = resolved(text, file)
        contract = contract_from(merged, file, Caps())
        edit = contract_edit(contract, contract.gates, [ledger])
        return merged if edit is None else writeback.render(merged, edit, file)

    if check:
        text = decode_contract(read_contract_bytes(path, file), file)
        return writeback.diff(text, synced(text), file)
    return writeback.rewrite(path, synced, file, cache / "locks")


@dataclass(frozen=True)
class _Hunk:
    """One conflict."""

    line: int
    """Where it begins, from 1."""
    ours: str
    theirs: str


def resolved(text: str, file: str) -> str:
    """The text without conflict markers, if both sides differ only in what is derived.

    Kept is the side with the higher version, with the other side's changelog entries.

    Raises:
        WriteBackRefusedError: The sides differ in something that people wrote; the line says where.
    """
    if not any(_MARKER.fullmatch(line) for line in text.splitlines(keepends=True)):
        return text
    parts = list(_parts(text, file))
    ours, theirs = _chosen(parts, "ours"), _chosen(parts, "theirs")
    for part in parts:
        if isinstance(part, _Hunk) and _differs(parts, part, file):
            raise WriteBackRefusedError(
                f"{file}:{part.line}: the conflict is not only in verdicts and what goes with "
                "them; resolve it in an editor and run sync again"
            )
    datas = {text: to_data(parse_document(text, file)) for text in (ours, theirs)}
    kept, other = sorted((ours, theirs), key=lambda side: _version(datas[side]), reverse=True)
    there = _changelog(datas[kept])
    lost = [entry for entry in _changelog(datas[other]) if entry not in there]
    return writeback.with_changelog(kept, lost, file)


def _parts(text: str, file: str) -> Iterator[str | _Hunk]:
    state, start, sides = "", 0, {_BEGIN: "", _BASE: "", _MIDDLE: ""}
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        marker = line[:7] if _MARKER.fullmatch(line) else ""
        if not marker:
            if state:
                sides[state] += line
            else:
                yield line
        elif marker == _END and state == _MIDDLE:
            yield _Hunk(start, sides[_BEGIN], sides[_MIDDLE])
            state, sides = "", {_BEGIN: "", _BASE: "", _MIDDLE: ""}
        elif (state, marker) in _FOLLOWS:
            start = number if marker == _BEGIN else start
            state = marker
        else:
            raise WriteBackRefusedError(f"{file}:{number}: conflict markers that do not match")
    if state:
        raise WriteBackRefusedError(f"{file}:{start}: a conflict that has no end")


_FOLLOWS = {("", _BEGIN), (_BEGIN, _BASE), (_BEGIN, _MIDDLE), (_BASE, _MIDDLE)}


def _chosen(parts: list[str | _Hunk], side: Side, only: _Hunk | None = None) -> str:
    """All of one side; or ours with that side of one hunk `only`."""
    return "".join(
        part if isinstance(part, str) else getattr(part, side if only in {None, part} else "ours")
        for part in parts
    )


def _differs(parts: list[str | _Hunk], hunk: _Hunk, file: str) -> bool:
    try:
        ours, mixed = (
            writeback.foreign(to_data(parse_document(text, file)))
            for text in (_chosen(parts, "ours"), _chosen(parts, "theirs", hunk))
        )
    except ContractError:
        return True
    return bool(ours != mixed)


def _version(data: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", str(data.get("version", ""))))


def _changelog(data: dict[str, Any]) -> list[str]:
    metadata = data.get("metadata")
    for holder in (data, metadata if isinstance(metadata, dict) else {}):
        listed = holder.get("changelog")
        if isinstance(listed, list):
            return [entry for entry in listed if isinstance(entry, str)]
    return []

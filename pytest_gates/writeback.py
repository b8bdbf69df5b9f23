"""The byte-exact edit of a contract: verdicts and their basis go in, every other byte stays.

Nothing is dumped. Values are spliced at the offsets of their nodes, the result is parsed again,
and its data must be the old data with the edit and nothing else; if not, nothing is written.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_gates.canonical import text_digest
from pytest_gates.contract import nodes
from pytest_gates.contract.basis import BASIS, is_ours
from pytest_gates.contract.guard import decode_contract, read_contract_bytes
from pytest_gates.contract.nodes import Node, Scalar, node_at, parse_document, place, to_data
from pytest_gates.disk import fsync_folder
from pytest_gates.errors import ContractError, WriteBackRefusedError
from pytest_gates.garbage import uncollected
from pytest_gates.splice import Draft, block, difference, flow, plain, quoted, spell
from pytest_gates.textdiff import unified

NOTE = "verdict_basis_note"
"""Where a basis that people wrote is kept."""
LOCK_TIMEOUT_S = 30.0
TEMPORARY = ".tmp"

_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.[0-9]{1,9}")


@dataclass(frozen=True)
class GateEdit:
    """What one gate gets."""

    gate_id: str
    verdict: str
    basis: tuple[Mapping[str, Any], ...]
    """Entries for `verdict_basis`: JSON data, each with a `record`; at least one."""
    discharge_status: str | None = None
    """Replaces the gate's `discharge_status`, if it has one."""

    def __post_init__(self) -> None:
        assert self.basis, "a verdict without a basis"
        assert all("record" in entry for entry in self.basis)


@dataclass(frozen=True)
class ContractEdit:
    """What one contract gets, all at once."""

    gates: tuple[GateEdit, ...]
    changelog: str | None = None
    """Entry for the contract's changelog, `{version} (2026-11-23): GATE-X pending -> pass`. It is
    written if a verdict changes and there is a list of texts to put it before. `{version}` stands
    for the new version, which only the text at the time of writing tells."""


def render(text: str, edit: ContractEdit, file: str) -> str:
    """The text of a contract with an edit applied. Pure.

    Args:
        text: The contract, without byte order mark.
        edit: What to change. What is there already is left byte for byte.
        file: Its name in messages.

    Returns:
        The new text; `text` itself if it says all of this already.

    Raises:
        WriteBackRefusedError: The edit cannot be made safely, and why.
    """
    root = _parse(text, file)
    draft = Draft(text, file, to_data(root))
    gates = _gates_by_id(root, {gate.gate_id for gate in edit.gates}, file)
    assert len(gates) == len(edit.gates), "a gate is edited twice"
    changed = False
    for gate_edit in edit.gates:
        index, gate = gates[gate_edit.gate_id]
        changed |= _edit_gate(draft, gate, draft.data["gates"][index], gate_edit)
    if changed:
        version = _raise_version(draft, root)
        if edit.changelog is not None:
            prefix = "" if version is None else f"{version} "
            _prepend(draft, root, edit.changelog.replace("{version} ", prefix, 1))
    result = draft.result()
    wrong = difference(draft.data, to_data(_parse(result, file)))
    if wrong is not None:
        draft.refuse(node_at(root, wrong), f"the edit would harm `{spell(wrong)}`")
    return result


def with_changelog(text: str, entries: Sequence[str], file: str) -> str:
    """The text with entries before the others of its changelog, the first one on top."""
    for entry in reversed(entries):
        root = _parse(text, file)
        draft = Draft(text, file, to_data(root))
        _prepend(draft, root, entry)
        text = draft.result()
    return text


def diff(old: str, new: str, file: str) -> str:
    """Unified diff of two texts of a contract; empty if they are equal."""
    lines = unified(old.splitlines(keepends=True), new.splitlines(keepends=True), file)
    marker = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + marker for line in lines)


def write(path: Path, seen_text: str, edit: ContractEdit, file: str, locks: Path) -> str:
    """Apply an edit to a contract's file, atomically and under a lock.

    The file may have changed since it was read, but only in what write-back itself writes (other
    processes record too) and in what is no data; the edit is then made in the new text.

    Args:
        path: The contract.
        seen_text: Its text when the gates were read, without byte order mark.
        edit: What to change.
        file: Its name in messages.
        locks: Folder where the lock file lives, away from the contracts; made if missing.

    Returns:
        What was written, as a unified diff; empty if there was nothing to change.

    Raises:
        WriteBackRefusedError: Changed by others, unsafe to edit, locked or not writable.
    """

    def edited(text: str) -> str:
        if text != seen_text:
            _refuse_foreign_change(seen_text, text, file)
        return render(text, edit, file)

    return rewrite(path, edited, file, locks)


def rewrite(path: Path, edited: Callable[[str], str], file: str, locks: Path) -> str:
    """Replace a contract's text by what `edited` makes of it; else as `write`, which uses it."""
    path = path.resolve()
    name = text_digest(os.fsencode(path).hex())[:32]
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{name}.lock", timeout=LOCK_TIMEOUT_S):
            return _rewrite_locked(path, edited, file)
    except Timeout:
        reason = f"another process has held its lock for {LOCK_TIMEOUT_S:.0f} s"
    except ContractError as error:
        raise WriteBackRefusedError(f"{error}; nothing was written") from None
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
    raise WriteBackRefusedError(f"{file}: {reason}; nothing was written")


def _rewrite_locked(path: Path, edited: Callable[[str], str], file: str) -> str:
    _sweep(path)
    data = read_contract_bytes(path, file)
    text = decode_contract(data, file)
    with uncollected():  # what was parsed is gone again before anybody looks for garbage
        new = edited(text)
    if new == text:
        return ""
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    _replace_file(path, mark + new.encode(), file)
    return diff(text, new, file)


def _sweep(path: Path) -> None:
    """Remove what a process left that was killed in here; it held the lock that is ours now."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        left.unlink(missing_ok=True)


def _refuse_foreign_change(seen_text: str, text: str, file: str) -> None:
    root = _parse(text, file)
    before, after = foreign(to_data(_parse(seen_text, file))), foreign(to_data(root))
    changed = difference(before, after)
    if changed is not None:
        at = place(node_at(root, changed, key=True), file)
        raise WriteBackRefusedError(
            f"{at}: `{spell(changed)}` was changed while the run lasted; nothing was written"
        )


def _replace_file(path: Path, data: bytes, file: str) -> None:
    """Put `data` in place of a file by temporary file, fsync and rename, keeping its mode."""
    mode = stat.S_IMODE(path.stat().st_mode)
    # Asked beforehand, because a rename replaces a read-only file, and root may write anywhere.
    for what, part in (("the file", path), ("its folder", path.parent)):
        if not part.stat().st_mode & 0o222 or not os.access(part, os.W_OK):
            raise WriteBackRefusedError(f"{file}: {what} is read-only; nothing was written")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123 - Path.open takes no descriptor
            stream.write(data)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync folders
        fsync_folder(path.parent)


def _parse(text: str, file: str) -> nodes.Mapping:
    try:
        root = parse_document(text, file)
    except ContractError as error:
        raise WriteBackRefusedError(f"{error.findings[0]}; nothing was written") from None
    if not isinstance(root, nodes.Mapping):
        raise WriteBackRefusedError(f"{file}: not a contract; nothing was written")
    return root


def _gates_by_id(
    root: nodes.Mapping, wanted: set[str], file: str
) -> dict[str, tuple[int, nodes.Mapping]]:
    listed = root.get("gates")
    found: dict[str, tuple[int, nodes.Mapping]] = {}
    for index, gate in enumerate(listed.items if isinstance(listed, nodes.Sequence) else ()):
        name = gate.get("id") if isinstance(gate, nodes.Mapping) else None
        if isinstance(gate, nodes.Mapping) and isinstance(name, Scalar) and name.value in wanted:
            if name.value in found:
                reason = f"duplicate id `{name.value}`; nothing was written"
                raise WriteBackRefusedError(f"{place(name, file)}: {reason}")
            found[name.value] = (index, gate)
    missing = sorted(wanted - found.keys())
    if missing:
        raise WriteBackRefusedError(f"{file}: no gate `{missing[0]}`; nothing was written")
    return found


def _edit_gate(draft: Draft, gate: nodes.Mapping, data: dict[str, Any], edit: GateEdit) -> bool:
    """Splice one gate; whether its verdict changes."""
    verdict = gate.get("verdict")
    anchor = gate.get("id") if verdict is None else verdict
    assert anchor is not None  # it was found by its id
    before = verdict.value if isinstance(verdict, Scalar) else None
    if verdict is not None:
        if before != edit.verdict:
            draft.set_scalar(verdict, edit.verdict, "verdict")
    elif isinstance(anchor, Scalar) and anchor.style in {"|", ">"}:
        draft.refuse(anchor, "`id` is a block scalar; write it on one line")
    elif gate.flow:
        draft.replace(anchor.end, anchor.end, f", verdict: {edit.verdict}")
    else:
        draft.insert_lines(anchor.end, [f"{_pad(gate)}verdict: {edit.verdict}"])
    data["verdict"] = str(edit.verdict)
    _edit_basis(draft, gate, data, edit, anchor)
    status = gate.get("discharge_status")
    if status is not None and edit.discharge_status is not None:
        if not isinstance(status, Scalar) or status.value != edit.discharge_status:
            draft.set_scalar(status, edit.discharge_status, "discharge_status")
        data["discharge_status"] = edit.discharge_status
    return before != edit.verdict


def _edit_basis(
    draft: Draft, gate: nodes.Mapping, data: dict[str, Any], edit: GateEdit, anchor: Node
) -> None:
    entry = gate.entry(BASIS)
    if entry is not None and not is_ours(entry[1]):
        note = NOTE
        while note in data:
            note += "_"
        draft.replace(entry[0].start, entry[0].end, note)
        data[note] = data.pop(BASIS)
        entry = None
    old, data[BASIS] = data.get(BASIS), plain(edit.basis)
    if entry is not None:
        if difference(old, data[BASIS]) is not None:
            _replace_basis(draft, gate, entry[1], edit)
    elif gate.flow:
        draft.replace(anchor.end, anchor.end, f", {BASIS}: {flow(edit.basis)}")
    else:
        pad = _pad(gate)
        draft.insert_lines(anchor.end, [f"{pad}{BASIS}:", *block(edit.basis, f"{pad}  ")])


def _replace_basis(draft: Draft, gate: nodes.Mapping, value: Node, edit: GateEdit) -> None:
    if gate.flow:
        draft.replace(value.start, value.end, draft.gap(value) + flow(edit.basis))
        return
    eol = draft.eol(value.start)
    lines = eol.join(block(edit.basis, f"{_pad(gate)}  "))
    if isinstance(value, nodes.Sequence) and not value.flow:
        draft.replace(draft.line_start(value.start), value.end, lines)
    else:
        draft.replace(draft.blank_before(value.start), value.end, eol + lines)


def _raise_version(draft: Draft, root: nodes.Mapping) -> str | None:
    """Raise the minor version wherever the contract states it; the new one."""
    stated = [
        (name, node, data)
        for name, holder, data in _holders(draft, root, "version")
        if (node := holder.get("version")) is not None
    ]
    if not stated:
        return None
    first = to_data(stated[0][1])
    for name, node, data in stated:
        if not _VERSION.fullmatch(str(data["version"])) or not isinstance(node, Scalar):
            draft.refuse(node, f"`{name}` is no version like 1.6.0, so it cannot be raised")
        if data["version"] != first:
            draft.refuse(node, f"`{name}` is {data['version']}, `version` is {first}; correct one")
    parts = _VERSION.fullmatch(str(first))
    assert parts is not None
    new = f"{parts[1]}.{int(parts[2]) + 1}.0"
    for name, node, data in stated:
        draft.set_scalar(node, new, name)
        data["version"] = new
    return new


def _prepend(draft: Draft, root: nodes.Mapping, text: str) -> None:
    """Put an entry before the others of the first changelog that is a list of texts."""
    for _, holder, data in _holders(draft, root, "changelog"):
        listed = holder.get("changelog")
        if not isinstance(listed, nodes.Sequence):
            continue
        if not all(isinstance(item, Scalar) for item in listed.items):
            continue
        if not listed.flow:
            start = draft.line_start(listed.start)
            pad, eol = " " * (listed.column - 1), draft.eol(listed.start)
            draft.replace(start, start, f"{pad}- {quoted(text)}{eol}")
        elif listed.items:
            start = listed.items[0].start
            draft.replace(start, start, f"{quoted(text)}, ")
        else:
            draft.replace(listed.start + 1, listed.start + 1, quoted(text))
        data["changelog"].insert(0, text)
        return


def _holders(
    draft: Draft, root: nodes.Mapping, name: str
) -> list[tuple[str, nodes.Mapping, dict[str, Any]]]:
    """Where a contract can state something of itself: at the top, and in its `metadata`."""
    metadata = root.get("metadata")
    holders = [(name, root, draft.data)]
    if isinstance(metadata, nodes.Mapping):
        holders.append((f"metadata.{name}", metadata, draft.data["metadata"]))
    return holders


def _pad(gate: nodes.Mapping) -> str:
    """Indentation of a block gate's keys."""
    return " " * (gate.column - 1)


def foreign(data: Any) -> Any:
    """The data of a contract less what write-back writes."""

    def without(mapping: dict[Any, Any], *names: str) -> dict[Any, Any]:
        return {
            key: value
            for key, value in mapping.items()
            if key not in names and not str(key).startswith(NOTE)
        }

    rest = without(data, "version", "changelog")
    if isinstance(rest.get("metadata"), dict):
        rest["metadata"] = without(rest["metadata"], "version", "changelog")
    if isinstance(rest.get("gates"), list):
        rest["gates"] = [
            without(gate, "verdict", BASIS, "discharge_status") if isinstance(gate, dict) else gate
            for gate in rest["gates"]
        ]
    return rest

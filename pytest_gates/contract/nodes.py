"""YAML nodes with positions, built in one guarded pass over parse events.

Positions are code-point offsets into the text that was parsed (never bytes: real contracts hold
box-drawing characters and arrows); lines and columns count from 1.

Nothing is composed or constructed before the limits are known to hold: nesting of 100,000 levels
kills a process inside libyaml's composer, and merge keys of 431 bytes keep PyYAML busy for half a
minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import yaml

from pytest_gates.contract.guard import (
    MAX_DEPTH,
    MAX_EVENTS,
    MAX_FINDINGS,
    Mark,
    has_escaped_control,
    refuse_characters,
    shorten,
    syntax_finding,
)
from pytest_gates.contract.scalars import meaning, surprising
from pytest_gates.errors import ContractError, Finding, Place
from pytest_gates.garbage import uncollected

Path = tuple[str | int, ...]

_TEXT = frozenset({str})
_NUMERIC = frozenset("0123456789+-.")
"""First characters of what can be a number."""

_LOADER: type[yaml.BaseLoader | yaml.CBaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Only its parser is used; the pure one where libyaml is missing."""


class Scalar(NamedTuple):
    """One value or key. `end` is exclusive and leaves out blank lines behind a block scalar."""

    start: int
    end: int
    line: int
    column: int
    value: str
    style: str
    """Empty if plain, else the first of its marks: single or double quote, `|` or `>`."""


class Sequence(NamedTuple):
    """A list. In block style `start` is the first dash and `end` the end of the last item."""

    start: int
    end: int
    line: int
    column: int
    items: tuple[Node, ...]
    flow: bool


class Mapping(NamedTuple):
    """Keys and values in file order, no key twice. In block style `end` is the last value's."""

    start: int
    end: int
    line: int
    column: int
    entries: tuple[tuple[Scalar, Node], ...]
    flow: bool

    def entry(self, name: str) -> tuple[Scalar, Node] | None:
        """Key and value nodes of the key spelt `name`, or None."""
        for key, value in self.entries:
            if key.value == name:
                return key, value
        return None

    def get(self, name: str) -> Node | None:
        """The value of the key spelt `name`, or None."""
        entry = self.entry(name)
        return None if entry is None else entry[1]


Node = Scalar | Sequence | Mapping

_made = tuple.__new__
"""A node of all of its fields; the named tuples' own constructors take one call more, each."""


def place(node: Node, file: str) -> Place:
    """Where a node begins."""
    return Place(file, node.line, node.column)


def node_at(root: Node, path: Path, *, key: bool = False) -> Node:
    """The deepest node on a path that exists.

    Elements that are neither a key nor an index there are skipped: pydantic's `loc` also holds
    the tags of unions, and the name of a field that is missing.

    Args:
        root: Where the path begins.
        path: Keys (as their text or their value) and indices.
        key: Give the key rather than its value if the last step that exists is one of a mapping.

    Returns:
        A node beneath `root`, or `root` itself.
    """
    node, name = root, root
    for element in path:
        if isinstance(node, Mapping):
            for candidate, value in node.entries:
                if candidate.value == str(element):
                    node, name = value, candidate
                    break
        elif (
            isinstance(node, Sequence)
            and isinstance(element, int)
            and 0 <= element < len(node.items)
        ):
            node = name = node.items[element]
    return name if key else node


def parse_document(text: str, file: str) -> Node:
    """Parse a contract under the limits of `guard`.

    Args:
        text: The contract, without byte order mark.
        file: Its name in messages.

    Returns:
        The root of the one document.

    Raises:
        ContractError: Not YAML, or beyond a limit (then parsing stopped there), or with anchors,
            aliases, tags, merge keys, duplicate keys, keys that are no scalars, numbers that
            Python cannot hold, control characters (up to `MAX_FINDINGS` of them at once).
    """
    refuse_characters(text, file)
    builder = _Builder(text, file)
    try:
        with uncollected():
            root = builder.build(_events(text))
    except yaml.MarkedYAMLError as error:
        raise ContractError((*builder.findings, syntax_finding(error, text, file))) from None
    if root is None:
        builder.findings.append(
            Finding(Place(file, 1, 1), "empty; expected the keys of a contract")
        )
    if builder.findings:
        raise ContractError(tuple(builder.findings))
    assert root is not None
    return root


def _events(text: str) -> Iterator[yaml.Event]:
    """As `yaml.parse`, which asks twice for each event."""
    loader = _LOADER(text)
    try:
        while (event := loader.get_event()) is not None:
            yield event
            if isinstance(event, yaml.StreamEndEvent):
                return
    finally:
        loader.dispose()


def to_data(node: Node) -> Any:
    """A node as plain Python data, as SafeLoader would give it, but timestamps as strings.

    Returns:
        Nested dict, list, str, int, float, bool and None.
    """
    if isinstance(node, Scalar):  # what is quoted is text, whatever it says
        return node.value if node.style else meaning(node.value, "")
    if isinstance(node, Mapping):
        return {meaning(key.value, key.style): to_data(value) for key, value in node.entries}
    return [to_data(item) for item in node.items]


def surprise(node: Node) -> str | None:
    """Why a plain scalar means something else in YAML 1.1 than it looks, or None.

    Examples: `010` is 8, `no` is a boolean, `1e-5` is a string, `1:30` is 90.
    """
    return surprising(node.value, node.style) if isinstance(node, Scalar) else None


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read yet."""

    event: yaml.CollectionStartEvent
    children: list[Node]


class _Builder:
    """Nodes out of events; keeps what is wrong with them."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.findings: list[Finding] = []
        self.documents = 0
        self.escapes = "\\" in text
        self.properties = "&" in text or "!" in text
        """Whether there can be anchors or tags."""

    def build(self, events: Iterable[yaml.Event]) -> Node | None:
        """The root node, or None if there is no document."""
        root: Node | None = None
        collections: list[_Open] = []
        children: list[Node] | None = None
        """Those of the innermost collection."""
        for count, event in enumerate(events):
            if count >= MAX_EVENTS:
                self._stop(event, f"more than {MAX_EVENTS:,} parse events")
            if type(event) is yaml.ScalarEvent:  # as two thirds are
                node: Node = self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                if len(collections) >= MAX_DEPTH:
                    self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
                if event.anchor is not None or event.tag is not None:
                    self._refuse_properties(event)
                collections.append(_Open(event, []))
                children = collections[-1].children
                continue
            elif isinstance(event, yaml.CollectionEndEvent):
                node = self._collection(collections.pop(), event)
                children = collections[-1].children if collections else None
            elif isinstance(event, yaml.AliasEvent):
                node = self._alias(event)
            else:
                self._document(event)
                continue
            if children is None:
                root = node
            else:
                children.append(node)
        return root

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        if self.properties and (event.anchor is not None or event.tag is not None):
            self._refuse_properties(event)
        mark, value, style = event.start_mark, event.value, event.style or ""
        start, end = mark.index, event.end_mark.index  # type: ignore[union-attr]  # see `_begin`
        if not style:
            if value[:1] in _NUMERIC:
                try:
                    meaning(value, style)
                except ValueError as error:
                    self._add(_begin(event), str(error))
        elif style == '"':
            if self.escapes and has_escaped_control(value):
                self._add(_begin(event), "a control character, written as an escape")
        elif style in {"|", ">"}:
            end = start + len(self.text[start:end].rstrip())
        return _made(Scalar, (start, end, mark.line + 1, mark.column + 1, value, style))  # type: ignore[union-attr]  # as above

    def _alias(self, event: yaml.AliasEvent) -> Scalar:
        mark = _begin(event)
        name = shorten(str(event.anchor))
        self._add(mark, f"alias `*{name}`: aliases are refused; runs inherit with `from:`")
        return Scalar(mark.index, _end(event), mark.line + 1, mark.column + 1, name, "*")

    def _collection(self, opened: _Open, event: yaml.CollectionEndEvent) -> Node:
        mark, children = _begin(opened.event), opened.children
        flow = bool(opened.event.flow_style)
        # A block's own end mark swallows the comments and blank lines behind it.
        end = children[-1].end if children and not flow else _end(event)
        start, line, column = mark.index, mark.line + 1, mark.column + 1
        if isinstance(event, yaml.SequenceEndEvent):
            return _made(Sequence, (start, end, line, column, tuple(children), flow))
        return _made(Mapping, (start, end, line, column, self._entries(children), flow))

    def _entries(self, children: list[Node]) -> tuple[tuple[Scalar, Node], ...]:
        pairs = tuple(zip(children[::2], children[1::2], strict=True))
        if _distinct(children[::2]):
            return pairs  # type: ignore[return-value]  # each key is a scalar, just seen
        entries = []
        seen: dict[object, Scalar] = {}
        for key, value in pairs:
            if not isinstance(key, Scalar):
                self._say(place(key, self.file), "a key must be a single word or text")
                continue
            if key.value == "<<" and not key.style:
                self._say(
                    place(key, self.file), "merge key `<<`: refused; runs inherit with `from:`"
                )
            self._refuse_duplicate(key, seen)
            entries.append((key, value))
        return tuple(entries)

    def _refuse_duplicate(self, key: Scalar, seen: dict[object, Scalar]) -> None:
        try:
            data = meaning(key.value, key.style)
        except ValueError:
            return  # said already, where the key was read
        # By meaning, or one would vanish from the data; by spelling, or `1` and `"1"` would be
        # two things that nobody can tell apart in a message.
        if data not in seen and key.value not in seen:
            seen[data] = seen[key.value] = key
            return
        first = seen.get(data) or seen.get(key.value)
        if first is not None:
            name = shorten(key.value)
            self._say(place(key, self.file), f"duplicate key `{name}`, first on line {first.line}")
        seen[data] = seen[key.value] = first or key

    def _document(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._stop(event, "a second document; a contract is one")

    def _refuse_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            name = shorten(event.anchor)
            self._add(
                _begin(event), f"anchor `&{name}`: anchors are refused; runs inherit with `from:`"
            )
        if event.tag is not None:
            self._add(_begin(event), f"tag `{shorten(event.tag)}`: tags are refused")

    def _add(self, mark: Mark, message: str) -> None:
        self._say(Place(self.file, mark.line + 1, mark.column + 1), message)

    def _say(self, where: Place, message: str) -> None:
        self.findings.append(Finding(where, message))
        if len(self.findings) >= MAX_FINDINGS:
            raise ContractError(tuple(self.findings))

    def _stop(self, event: yaml.Event, message: str) -> NoReturn:
        self._add(_begin(event), message)
        raise ContractError(tuple(self.findings))


def _distinct(keys: list[Node]) -> bool:
    """Whether all keys are words that differ in spelling and meaning, none a merge key.

    So it is nearly always; where it is not, it is looked up who and why.
    """
    try:
        meant = {meaning(key.value, key.style) for key in keys}  # type: ignore[union-attr]  # below
    except (ValueError, AttributeError):  # a number that is none; a key that is no word
        return False
    # What means a text is spelt like it.
    return len(meant) == len(keys) and _TEXT.issuperset(map(type, meant)) and "<<" not in meant


def _begin(event: yaml.Event) -> Mark:
    assert event.start_mark is not None  # only events made by hand have none
    return event.start_mark


def _end(event: yaml.Event) -> int:
    assert event.end_mark is not None
    return event.end_mark.index

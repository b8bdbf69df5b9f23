"""From YAML nodes to typed models, each error at its place with what was expected."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pytest_gates.contract.guard import shorten
from pytest_gates.contract.nodes import Mapping as MappingNode
from pytest_gates.contract.nodes import Node, Scalar, node_at, surprise
from pytest_gates.contract.nodes import Sequence as SequenceNode
from pytest_gates.contract.words import hint, nearest
from pytest_gates.errors import Finding, Place, one_line
from pytest_gates.model.device import DEVICE_GRAMMAR
from pytest_gates.model.misfit import MisfitError

Model = TypeVar("Model", bound=BaseModel)

Keys = tuple[str | int, ...]
"""A path of keys and indices."""


class Locate(Protocol):
    """Finds the node at a path of keys."""

    def __call__(self, path: Keys, *, key: bool = False) -> Node:
        """See `nodes.node_at`."""


"""Finds the node behind a path of keys; where a run inherits, the node may lie in its parent."""


@dataclass(frozen=True)
class Source:
    """The file that findings are about."""

    file: str

    def place(self, node: Node) -> Place:
        """Where a node stands."""
        return Place(self.file, node.line, node.column)

    def finding(self, node: Node, message: str) -> Finding:
        """A finding at a node."""
        return Finding(self.place(node), message)

    def unseen(self, node: Node | None) -> list[Finding]:
        """What is wrong with an id: whoever reads it in a report must see what it is."""
        if not isinstance(node, Scalar) or one_line(node.value.strip()) == node.value.strip():
            return []
        text = "an id is one line of visible characters"
        return [self.finding(node, f"{text}; found {json.dumps(shorten(node.value))}")]


def locate_below(node: Node) -> Locate:
    """Paths are looked up below one node."""
    return partial(node_at, node)


def nearly(node: Node, key: str) -> tuple[Node, str] | None:
    """The key that nearly spells one that is missing, and what to say of it."""
    if isinstance(node, MappingNode) and node.get(key) is None:
        for entry, _ in node.entries:
            if nearest(entry.value, (key,)) is not None:
                return entry, f"unknown key `{entry.value}`; did you mean `{key}`?"
    return None


def surprises(node: Node) -> list[tuple[Node, str]]:
    """Plain numbers below a node that YAML 1.1 reads as other than they look."""
    if isinstance(node, Scalar):
        text = surprise(node) if node.value[:1] in "0123456789+-." else None
        return [(node, text)] if text else []
    below = node.items if isinstance(node, SequenceNode) else [value for _, value in node.entries]
    return [odd for one in below for odd in surprises(one)]


def without(findings: Iterable[Finding], said: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings at places about which nothing was said yet."""
    places = {finding.place for finding in said}
    return tuple(finding for finding in findings if finding.place not in places)


def build(
    model: type[Model], data: object, source: Source, locate: Locate
) -> Model | tuple[Finding, ...]:
    """Validate data into a model, or say all that is wrong with it, once a place."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        said = _Said(model, source, locate)
        return tuple(said.findings(details))


@dataclass(frozen=True)
class _Said:
    """What pydantic said about a model's data, in the words of a contract."""

    model: type[BaseModel]
    source: Source
    locate: Locate

    def findings(self, errors: Sequence[ErrorDetails]) -> Iterator[Finding]:
        """One finding a thing that is wrong; keys missing from one block are one thing."""
        missing: dict[Keys, list[str]] = {}
        wrong: dict[Keys, list[ErrorDetails]] = {}
        meant: set[tuple[Keys, str | None]] = set()
        unknown: set[Keys] = set()
        for error in errors:
            keys, _ = self._walk(error["loc"])
            if error["type"] == "extra_forbidden":
                block, known = self._walk(error["loc"][:-1])
                name = str(error["loc"][-1])
                meant.add((block, nearest(name, known)))
                unknown.add((*block, name))
                text = f"unknown key `{name}`; {hint(name, known)}"
                yield self.source.finding(self.locate((*block, name), key=True), text)
            elif error["type"] == "missing":
                missing.setdefault(keys[:-1], []).append(str(keys[-1]))
            else:
                wrong.setdefault(keys, []).append(error)
        for path, names in missing.items():
            left = [f"`{name}`" for name in names if (path, name) not in meant]
            if left:
                verb = "is" if len(left) == 1 else "are"
                yield self.source.finding(self.locate(path), f"{', '.join(left)} {verb} missing")
        lacking = {(*path, name) for path, names in missing.items() for name in names}
        deeper = {*wrong, *unknown, *lacking}
        for keys, many in wrong.items():
            # A list that is too short because its items are wrong is one mistake, and a block
            # that is none of a union's other members is none.
            if not any(len(other) > len(keys) and other[: len(keys)] == keys for other in deeper):
                yield self._wrong(keys, many)

    def _walk(self, loc: Sequence[str | int]) -> tuple[Keys, list[str]]:
        """The keys of a location without the tags of unions, and the fields that are known below.

        Elements of a location that are neither a field nor an index name a member of a union, or
        a key of a free mapping such as limits by GPU; neither has fields below.
        """
        models: list[type[BaseModel]] = [self.model]
        keys: list[str | int] = []
        for element in loc:
            fields = [one.model_fields[element] for one in models if element in one.model_fields]
            if fields or isinstance(element, int):
                keys.append(element)
            if fields:
                models = [model for field in fields for model in _models(field.annotation)]
        return tuple(keys), list(dict.fromkeys(name for one in models for name in one.model_fields))

    def _wrong(self, keys: Keys, errors: Sequence[ErrorDetails]) -> Finding:
        # Where one member of a union fits in kind, the others' kinds are no news.
        errors = [one for one in errors if not one["type"].endswith("_type")] or errors
        first = errors[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, MisfitError):
            return self.source.finding(self.locate((*keys, *cause.path)), str(cause))
        kind = first["type"]
        if kind in {"union_tag_invalid", "union_tag_not_found"}:
            return self._untagged(keys, first)
        node = self.locate(keys)
        plain = dict.fromkeys(_plain(error) for error in errors)
        if set(plain) == {NUMBER, WHOLE}:  # what takes both says so once for each
            plain.pop(WHOLE)
        message = " or ".join(plain).replace(" or expected ", " or ")
        name = next((f"`{key}`: " for key in reversed(keys) if isinstance(key, str)), "")
        return self.source.finding(node, f"{name}{message}{found(node, message)}")

    def _untagged(self, keys: Keys, error: ErrorDetails) -> Finding:
        context: dict[str, Any] = error.get("ctx", {})
        tag = context["discriminator"].strip("'")
        block = self.locate(keys)
        known = re.findall(r"'([^']*)'", context.get("expected_tags", ""))
        if "tag" in context:
            text = f"unknown {tag} `{shorten(str(context['tag']))}`; {hint(context['tag'], known)}"
            return self.source.finding(node_at(block, (tag,)), text)
        return self.source.finding(block, f"`{tag}` is missing")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """All models within an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def found(node: Node, message: str = "") -> str:
    """What stands there, unless the message names it already."""
    if not isinstance(node, Scalar) or repr(node.value) in message or f"`{node.value}`" in message:
        return ""
    if not node.value and not node.style:
        return "; found nothing"
    shown = shorten(node.value)
    shown = f"`{shown}`" if shown.isprintable() else json.dumps(shown)
    if node.style in {"'", '"'}:
        shown = f"the text {shown}"
    odd = surprise(node) if "NaN" not in message else None
    return f"; found {shown}" + (f" ({odd})" if odd else "")


NUMBER, WHOLE = "expected a number", "expected a whole number"
_MEANINGS = {
    "int_type": WHOLE,
    "int_from_float": WHOLE,
    "float_type": NUMBER,
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "string_too_short": "expected text that is not empty",
}
"""Kinds of pydantic's errors, in the words of a contract."""

_PATTERNS = {
    DEVICE_GRAMMAR: "expected cpu, cuda, cuda:0 to cuda:15, or auto",
    r"^(bytes|bpe-[1-9][0-9]{2,5})$": "expected bytes, or bpe-100 to bpe-999999",
    r"^\d{4}-\d{2}-\d{2}$": "expected a date, YYYY-MM-DD",
}
"""Patterns of the models, in words."""


def _plain(error: ErrorDetails) -> str:
    context: dict[str, Any] = error.get("ctx", {})
    kind = error["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind in _MEANINGS:
        return _MEANINGS[kind]
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return _PATTERNS.get(pattern, f"expected text matching {pattern}")
    if kind == "too_short" and context.get("min_length") == 1:
        return "expected a list of at least one"
    number = kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
    message = error["msg"].replace("Input should be", "expected a number" if number else "expected")
    return message.replace("a valid ", "a ").replace("tuple", "list")

"""From YAML nodes to typed models, each error at its place with what was expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pytest_gates.contract.nodes import Mapping as MappingNode
from pytest_gates.contract.nodes import Node, Scalar, Sequence, node_at, surprise
from pytest_gates.contract.words import hint
from pytest_gates.errors import Finding, Place

Model = TypeVar("Model", bound=BaseModel)

Locate = Callable[[tuple[str | int, ...]], Node]
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


def locate_below(node: Node) -> Locate:
    """Paths are looked up below one node."""
    return lambda path: node_at(node, path)


def key_node(parent: Node, key: str | int) -> Node:
    """The node of a key itself, so that an error about a key does not point at its value."""
    if isinstance(parent, MappingNode):
        for entry, _ in parent.entries:
            if entry.value == key:
                return entry
    return parent


def surprises(node: Node, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Node, str]]:
    """Plain numbers below a node that YAML 1.1 reads as other than they look."""
    if isinstance(node, Scalar):
        text = surprise(node)
        if text and node.value[:1] in "0123456789+-.":
            yield node, text
    elif isinstance(node, MappingNode):
        for _, value in node.entries:
            yield from surprises(value)
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from surprises(item)


def without(findings: Iterable[Finding], said: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings at places about which nothing was said yet."""
    places = {finding.place for finding in said}
    return tuple(finding for finding in findings if finding.place not in places)


def build(
    model: type[Model], data: object, source: Source, locate: Locate
) -> Model | tuple[Finding, ...]:
    """Validate data into a model, or say all that is wrong with it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        fields = list(model.model_fields)
        details = error.errors(include_url=False, include_context=True)
        return tuple(_finding(detail, fields, source, locate) for detail in details)


def _finding(error: ErrorDetails, fields: list[str], source: Source, locate: Locate) -> Finding:
    path = tuple(error["loc"])
    node = locate(path)
    name = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
    kind = error["type"]
    if kind == "extra_forbidden":
        known = fields if len(path) == 1 else ()
        place = key_node(locate(path[:-1]), path[-1])
        more = f"; {hint(name, known)}" if known else ""
        return source.finding(place, f"unknown key `{name}`{more}")
    if kind == "missing":
        return source.finding(locate(path[:-1]), f"`{name}` is missing")
    return source.finding(node, _told(error, name, node))


def _told(error: ErrorDetails, name: str, node: Node) -> str:
    message = _plain(error)
    found = f"; found `{node.value}`" if isinstance(node, Scalar) else ""
    lead = f"`{name}`: " if name else ""
    odd = surprise(node) if isinstance(node, Scalar) else None
    return f"{lead}{message}{found}" + (f" ({odd})" if odd else "")


def _plain(error: ErrorDetails) -> str:
    context: dict[str, Any] = error.get("ctx", {})
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] == "string_pattern_mismatch":
        return f"expected text matching {context['pattern']}"
    return (
        error["msg"]
        .replace("Input should be", "expected")
        .replace("a valid ", "a ")
        .replace("tuple", "list")
    )

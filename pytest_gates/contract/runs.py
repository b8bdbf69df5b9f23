"""The `runs:` block: inheritance by `from:`, typing, and the caps of pytest's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_gates.contract.nodes import Mapping as MappingNode
from pytest_gates.contract.nodes import Node, node_at, to_data
from pytest_gates.contract.typed import Locate, Source, build, surprises, without
from pytest_gates.contract.words import hint
from pytest_gates.errors import Finding
from pytest_gates.model.config import ForwardRun, PretrainRun, ProbeRun, RecordedRun, Run

DRIVERS: dict[str, type[PretrainRun | ForwardRun | ProbeRun | RecordedRun]] = {
    "pretrain": PretrainRun,
    "forward": ForwardRun,
    "probe": ProbeRun,
    "recorded": RecordedRun,
}


@dataclass(frozen=True)
class Caps:
    """Most that a contract may ask of a machine; pytest's configuration raises them."""

    steps: int = 100_000
    parameters: int = 20_000_000_000
    step_tokens: int = 4_194_304


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; blocks are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


class _NoSourceError(Exception):
    """A run continues one that is not there; it was said already."""


class RunTable:
    """The runs of one contract: raw, as declared, and typed."""

    def __init__(self, block: MappingNode | None, source: Source, caps: Caps) -> None:
        self._source = source
        self._caps = caps
        self._nodes: dict[str, Node] = {}
        self._raw: dict[str, dict[str, Any]] = {}
        self.typed: dict[str, Run] = {}
        self.findings: list[Finding] = []
        if block is not None:
            for key, node in block.entries:
                self._nodes[key.value] = node
            for key, node in block.entries:
                self._declare(key.value, node)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    @property
    def names(self) -> list[str]:
        """All declared names, whether or not they could be typed."""
        return list(self._nodes)

    def _declare(self, name: str, node: Node) -> None:
        if not isinstance(node, MappingNode):
            self.findings.append(self._source.finding(node, f"run `{name}` must be a mapping"))
            return
        odd = [self._source.finding(at, text) for at, text in surprises(node)]
        self.findings.extend(odd)
        raw = self._resolve(name, ())
        if raw is not None:
            self._raw[name] = raw
            run = self._type(raw, lambda path: self._locate(name, path), odd)
            if run is not None and not odd:
                self.typed[name] = run

    def _resolve(self, name: str, seen: tuple[str, ...]) -> dict[str, Any] | None:
        node = self._nodes[name]
        own = to_data(node)
        if not isinstance(own, dict):
            return None
        if "from" not in own:
            return own
        parent, place = own.pop("from"), node_at(node, ("from",))
        if parent not in self._nodes:
            text = f"run `{name}` inherits from `{parent}`, which is not there; "
            self.findings.append(self._source.finding(place, text + hint(str(parent), self.names)))
            return None
        if parent in (*seen, name):
            chain = " -> ".join((*seen, name, parent))
            self.findings.append(self._source.finding(place, f"runs inherit in a circle: {chain}"))
            return None
        base = self._resolve(parent, (*seen, name))
        return None if base is None else merge(base, own)

    def _locate(self, name: str, path: tuple[str | int, ...]) -> Node:
        """The node of a setting: the run's own, else that of the run it inherits from."""
        node = self._nodes[name]
        while isinstance(node, MappingNode) and path and node.get(str(path[0])) is None:
            parent = node.get("from")
            below = self._nodes.get(parent.value) if parent is not None else None  # type: ignore[union-attr]  # resolved before
            if not isinstance(below, MappingNode) or below.get(str(path[0])) is None:
                break
            node = below
        return node_at(node, path)

    def _type(
        self, raw: dict[str, Any], locate: Locate, said: Sequence[Finding] = ()
    ) -> Run | None:
        try:
            raw = self._with_source(raw, locate, ())
        except _NoSourceError:
            return None
        driver = raw.get("driver")
        if driver not in DRIVERS:
            what = "`driver` is missing" if driver is None else f"unknown driver `{driver}`"
            text = f"{what}; {hint(str(driver), DRIVERS)}"
            self.findings.append(self._source.finding(locate(("driver",)), text))
            return None
        run = build(DRIVERS[driver], raw, self._source, locate)
        if isinstance(run, tuple):
            self.findings.extend(without(run, said))
            return None
        over = [
            self._source.finding(locate((key,)), text) for key, text in exceeded(run, self._caps)
        ]
        self.findings.extend(over)
        return None if over else run

    def _with_source(
        self, raw: dict[str, Any], locate: Locate, seen: tuple[str, ...]
    ) -> dict[str, Any]:
        """The raw run with the run that it continues in place of that one's name."""
        resume = raw.get("resume")
        name = resume.get("run") if isinstance(resume, dict) else None
        if not isinstance(name, str):
            return raw
        place = locate(("resume", "run"))
        source = None
        if name not in self._nodes:
            text = f"there is no run `{name}` to resume; {hint(name, self.names)}"
            self.findings.append(self._source.finding(place, text))
        elif name in seen:
            text = f"runs continue each other in a circle: {' -> '.join((*seen, name))}"
            self.findings.append(self._source.finding(place, text))
        else:
            source = self._resolve(name, ())
        if source is None:
            raise _NoSourceError
        assert isinstance(resume, dict)
        source = self._with_source(source, locate, (*seen, name))
        return {**raw, "resume": {**resume, "run": source}}

    def shortened(self, name: str, node: Node) -> Run | None:
        """The run `name` with the settings of a falsifier's `shorten:` block on top."""
        if name not in self._raw:
            return None

        def locate(path: tuple[str | int, ...]) -> Node:
            own = isinstance(node, MappingNode) and path and node.get(str(path[0])) is not None
            return node_at(node, path) if own else node

        settings = to_data(node)
        if not isinstance(settings, dict) or "driver" in settings:
            text = "`shorten` must be a mapping of the run's settings, and keeps its driver"
            self.findings.append(self._source.finding(node, text))
            return None
        return self._type(merge(self._raw[name], settings), locate)


def exceeded(run: Run, caps: Caps) -> Iterator[tuple[str, str]]:
    """Settings beyond the caps: (key, message)."""
    if isinstance(run, PretrainRun):
        if run.steps > caps.steps:
            yield "steps", _over("steps", run.steps, caps.steps, "gates_max_steps")
        if run.tokens_per_step > caps.step_tokens:
            tokens = run.tokens_per_step
            yield "batch_size", _over("tokens a step", tokens, caps.step_tokens,
                                      "gates_max_step_tokens")  # fmt: skip
    architecture = run.architecture if isinstance(run, PretrainRun | ForwardRun) else None
    if architecture is not None:
        size = architecture.parameters
        if size > caps.parameters:
            yield "model", _over("parameters", size, caps.parameters, "gates_max_parameters")


def _over(what: str, value: int, cap: int, option: str) -> str:
    return f"{value} {what} exceed the cap of {cap}; raise `{option}` in pytest's configuration"

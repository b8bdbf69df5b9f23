"""The `runs:` block: inheritance by `from:`, typing, and the caps of pytest's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from pytest_gates.contract.nodes import Mapping as MappingNode
from pytest_gates.contract.nodes import Node, Path, Scalar, node_at, surprise, to_data
from pytest_gates.contract.typed import Locate, Source, build, nearly, surprises, without
from pytest_gates.contract.words import hint
from pytest_gates.errors import Finding
from pytest_gates.model.command import OUT
from pytest_gates.model.config import (
    CommandRun,
    ForwardRun,
    PretrainRun,
    ProbeRun,
    RecordedRun,
    Run,
    declared_launch,
)
from pytest_gates.model.declared import Declared

DRIVERS: dict[str, type[PretrainRun | ForwardRun | ProbeRun | CommandRun | RecordedRun]] = {
    "pretrain": PretrainRun,
    "forward": ForwardRun,
    "probe": ProbeRun,
    "command": CommandRun,
    "recorded": RecordedRun,
}

SETTINGS = tuple(
    dict.fromkeys(name for model in (*DRIVERS.values(), Declared) for name in model.model_fields)
)
"""Every setting of a run, or of the files of a recorded one."""


@dataclass(frozen=True)
class Caps:
    """Most that a contract may ask of a machine; pytest's configuration raises them."""

    steps: int = 100_000
    parameters: int = 20_000_000_000
    step_tokens: int = 4_194_304
    processes: int = 8


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; blocks are merged key by key, everything else is replaced.

    A block of another `kind` has keys of its own, so it is replaced as well.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if not isinstance(below, dict) or not isinstance(value, dict):
            merged[key] = value
        elif value.get("kind", below.get("kind")) == below.get("kind"):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _depth(node: Node, path: Path) -> int:
    """How many elements of the path exist below a node."""
    return sum(
        node_at(node, path[: count + 1]) is not node_at(node, path[:count])
        for count in range(len(path))
    )


class _NoSourceError(Exception):
    """A run continues one that is not there or is wrong itself; that is said elsewhere."""


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
            run = self._type(raw, partial(self._locate, name), odd)
            if run is not None and not odd:
                self.typed[name] = run

    def _resolve(self, name: str, seen: tuple[str, ...]) -> dict[str, Any] | None:
        node = self._nodes[name]
        own = to_data(node)
        if not isinstance(node, MappingNode) or not isinstance(own, dict):
            return None
        if "from" not in own:
            return own
        parent = own.pop("from")
        base = self._inherited(name, parent, node_at(node, ("from",)), seen)
        if base is None:
            return None
        if own.get("driver", base.get("driver")) != base.get("driver"):
            text = f"a run keeps the driver of the run it inherits from: `{base.get('driver')}`"
            self.findings.append(self._source.finding(node_at(node, ("driver",)), text))
            return None
        return merge(base, own)

    def _inherited(
        self, name: str, parent: object, place: Node, seen: tuple[str, ...]
    ) -> dict[str, Any] | None:
        """What the run inherits; None: that was refused, here or of the run that it inherits."""
        fault = self._not_inheritable(name, parent)
        if fault is not None:
            self.findings.append(self._source.finding(place, fault))
            return None
        assert isinstance(parent, str)
        if parent in (*seen, name):
            self._say_circle((*seen, name), parent)
            return None
        base = self._resolve(parent, (*seen, name))
        return base if base is not None and _is_driver(base.get("driver")) else None

    def _not_inheritable(self, name: str, parent: object) -> str | None:
        if not isinstance(parent, str):
            return "`from` is the name of one run"
        if parent not in self._nodes:
            text = f"run `{name}` inherits from `{parent}`, which is not there"
            return f"{text}; {hint(parent, [one for one in self.names if one != name])}"
        return None

    def _say_circle(self, chain: tuple[str, ...], again: str) -> None:
        """Once a circle, whichever run leads into it: at its member that the file names first."""
        circle = chain[chain.index(again) :]
        first = min(circle, key=self.names.index)
        turned = circle[circle.index(first) :] + circle[: circle.index(first)]
        text = f"runs inherit in a circle: {' -> '.join((*turned, first))}"
        place = node_at(self._nodes[first], ("from",))
        self.findings.append(self._source.finding(place, text))

    def _locate(self, name: str, path: Path, *, key: bool = False) -> Node:
        """The node of a setting: where it stands, be it in a run that this one inherits from."""
        best = node = self._nodes[name]
        while isinstance(node, MappingNode):
            if _depth(node, path) > _depth(best, path):
                best = node
            parent = node.get("from")
            if not isinstance(parent, Scalar):
                break
            node = self._nodes[parent.value]
        return node_at(best, path, key=key)

    def _type(
        self, raw: dict[str, Any], locate: Locate, said: Sequence[Finding] = ()
    ) -> Run | None:
        try:
            raw = self._with_source(raw, locate, ())
        except _NoSourceError:
            return None
        driver = raw.get("driver")
        if not _is_driver(driver):
            self.findings.append(self._source.finding(*_no_driver(driver, locate)))
            return None
        run = build(DRIVERS[driver], raw, self._source, locate)
        if isinstance(run, tuple):
            # A run that inherits a mistake does not repeat it.
            self.findings.extend(without(run, [*said, *self.findings]))
            return None
        over = [self._source.finding(locate(path), text)
                for path, text in (*exceeded(run, self._caps), *outside(run))]  # fmt: skip
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
        if not self._is_right(source, locate):
            raise _NoSourceError
        return {**raw, "resume": {**resume, "run": source}}

    def _is_right(self, raw: dict[str, Any], locate: Locate) -> bool:
        driver = raw.get("driver")
        if not _is_driver(driver):
            return False
        return not isinstance(build(DRIVERS[driver], raw, self._source, locate), tuple)

    def shortened(self, name: str, node: Node) -> Run | None:
        """The run `name` with the settings of a falsifier's `shorten:` block on top."""
        if name not in self._raw:
            return None

        def locate(path: Path, *, key: bool = False) -> Node:
            own = isinstance(node, MappingNode) and path and node.get(str(path[0])) is not None
            return node_at(node, path, key=key) if own else node

        settings = to_data(node)
        if not isinstance(settings, dict) or "driver" in settings:
            text = "`shorten` must be a mapping of the run's settings, and keeps its driver"
            self.findings.append(self._source.finding(node, text))
            return None
        return self._type(merge(self._raw[name], settings), locate)


def exceeded(run: Run, caps: Caps) -> Iterator[tuple[Path, str]]:
    """Settings beyond the caps: where and why."""
    if isinstance(run, PretrainRun):
        if run.steps > caps.steps:
            yield ("steps",), _over("steps", run.steps, caps.steps, "gates_max_steps")
        if run.tokens_per_step > caps.step_tokens:
            tokens = run.tokens_per_step
            text = _over("tokens a step", tokens, caps.step_tokens, "gates_max_step_tokens")
            yield ("batch_size",), text
    launch = declared_launch(run)
    if launch is not None and launch.processes > caps.processes:
        count = launch.processes
        text = _over("processes on a node", count, caps.processes, "gates_max_processes")
        yield ("launch", "processes"), text
    architecture = None
    if isinstance(run, PretrainRun | ForwardRun | CommandRun):
        architecture = run.architecture
    if architecture is not None:
        size = architecture.parameters
        if size > caps.parameters:
            yield ("model",), _over("parameters", size, caps.parameters, "gates_max_parameters")


def outside(run: Run) -> Iterator[tuple[Path, str]]:
    """Files that cannot lie in the project, by their names alone; links are seen when read."""
    named: list[tuple[Path, str]] = []
    if isinstance(run, RecordedRun):
        named = [(("files", index, "path"), file.path) for index, file in enumerate(run.files)]
    if isinstance(run, CommandRun):
        told = [(index, source.path) for index, source in enumerate(run.telemetry)]
        named = [(("telemetry", index, "path"), path.removeprefix(f"{OUT}/"))
                 for index, path in told if path is not None]  # fmt: skip
        named.append((("folder",), run.folder))
    if isinstance(run, PretrainRun):
        named = [(("data", "shards", index), name) for index, name in enumerate(run.data.shards)]
    if isinstance(run, ForwardRun):
        paths: dict[Path, str | None] = {("weights",): run.weights, ("tokenizer",): run.tokenizer}
        if run.against is not None:
            paths["against", "weights"] = run.against.weights
            paths["against", "tokenizer"] = run.against.tokenizer
        named = [(path, name) for path, name in paths.items() if name is not None]
    for path, name in named:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            yield path, f"`{name}` lies outside the project; a path is relative to its root"


def _over(what: str, value: int, cap: int, option: str) -> str:
    return f"{value} {what} exceed the cap of {cap}; raise `{option}` in pytest's configuration"


def _is_driver(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and name in DRIVERS


def _no_driver(driver: object, locate: Locate) -> tuple[Node, str]:
    """Where and why there is no such driver."""
    at = locate(("driver",))
    if driver is None:
        missing = f"`driver` is missing; {hint('', DRIVERS)}"
        own = locate(())
        return nearly(own, "driver") or nearly(own, "from") or (at, missing)
    if isinstance(driver, str):
        return at, f"unknown driver `{driver}`; {hint(driver, DRIVERS)}"
    why = surprise(at)
    return at, f"`driver` must be a name; {hint('', DRIVERS)}" + (f" ({why})" if why else "")

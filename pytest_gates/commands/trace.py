"""`pytest-gates trace`: one forward pass slot by slot, alone or beside another, for people."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.say import say
from pytest_gates.errors import GatesError

if TYPE_CHECKING:
    from pytest_gates.checks.slots import Slot

SHOWN = ("std", "rms", "abs_max", "kurtosis", "rel_l2", "own_rel_l2")
WRITTEN = ("mean", *SHOWN, "zeros_pct", "non_finite", "grad_ratio", "grad_cosine", "hash")


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "trace", help="a forward pass slot by slot; with two, where they part"
    )
    parser.add_argument("path", metavar="A", help="weights, a preset, or a recorded table.csv")
    parser.add_argument("against", metavar="B", nargs="?", help="weights of the reference")
    parser.add_argument("--prompt", default="def main():\n", help="text that is fed")
    parser.add_argument("--tokenizer", help="`bytes` or a tokenizer.json, for both sides")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--parameter-dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--statistic", default="std", choices=("std", "rms", "abs_max", "kurtosis"))
    parser.add_argument("--csv", type=Path, help="write the table there")
    parser.add_argument("--html", type=Path, help="write a heat map there")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(command=run)


@dataclass
class Traced:
    """What a trace said."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def keep(self, line: Mapping[str, Any]) -> None:
        """Take a telemetry line."""
        if line.get("kind") == "slot":
            self.lines.append(dict(line))
        elif line.get("kind") == "fact":
            self.facts[line["name"]] = line["value"]


def run(arguments: argparse.Namespace) -> int:
    """Trace, or read a table; 1 if an anomaly or a divergence was found."""
    traced = _recorded(arguments) if arguments.path.endswith(".csv") else _executed(arguments)
    slots = _slots(traced)
    found = _findings(arguments, traced, slots)
    first = found["first"]
    if arguments.csv is not None:
        _write(arguments.csv, _table(traced.lines))
    if arguments.html is not None:
        _write(arguments.html, _page(arguments, traced, slots, found))
    if arguments.json:
        say(json.dumps({"slots": traced.lines, "facts": traced.facts, **found}, indent=2))
    else:
        _tell(slots, found)
    return 1 if first or found["refused"] else 0


def _recorded(arguments: argparse.Namespace) -> Traced:
    from pytest_gates.readers.trace_csv import read_trace_csv  # noqa: PLC0415 - heavy

    if arguments.against is not None:
        raise GatesError("a recorded table holds no activations to compare; give weights for both")
    path = Path(arguments.path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GatesError(f"{path}: {error.strerror}") from None
    return Traced([dict(line) for line in read_trace_csv(data, path.name).lines])


def _executed(arguments: argparse.Namespace) -> Traced:
    """A forward run in a process of its own, as a contract's would be."""
    from pydantic import ValidationError  # noqa: PLC0415 - heavy

    from pytest_gates.model.config import PRESETS, ForwardRun  # noqa: PLC0415 - heavy
    from pytest_gates.readers.telemetry import describe  # noqa: PLC0415 - heavy
    from pytest_gates.run.worker import Worker  # noqa: PLC0415 - heavy

    own = arguments.path if arguments.path not in PRESETS else None
    tokenizers = [arguments.tokenizer or _beside(one) for one in (own, arguments.against)]
    named = [own, arguments.against, *tokenizers]
    paths = [Path(one).resolve() for one in named if one is not None and one != "bytes"]
    root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path.cwd()
    said = {
        "driver": "forward",
        "device": arguments.device,
        "dtype": arguments.dtype,
        "parameter_dtype": arguments.parameter_dtype,
        "prompt": arguments.prompt,
        "tokenizer": _below(root, tokenizers[0]),
        **({"model": arguments.path} if own is None else {"weights": _below(root, own)}),
    }
    if arguments.against is not None:
        weights, tokenizer = (_below(root, one) for one in (arguments.against, tokenizers[1]))
        said["against"] = {"weights": weights, "tokenizer": tokenizer}
    try:
        declared = ForwardRun.model_validate(said)
    except ValidationError as error:
        raise GatesError(describe(error)) from None
    traced = Traced()
    with (
        tempfile.TemporaryDirectory(prefix="pytest-gates-") as folder,
        Worker(cache=Path(folder), root=root) as worker,
    ):
        finished = worker.execute(declared, on_line=traced.keep)
        shutil.rmtree(finished.staging)
    if finished.status != "COMPLETED":
        raise GatesError(f"{finished.status}: {finished.reason}")
    return traced


def _beside(weights: str | None) -> str | None:
    """The tokenizer beside a link to a file: caches of weights keep the file itself elsewhere.

    Raises:
        GatesError: the architecture, too, lies beside the link and not beside the file.
    """
    link = Path(weights or "")
    if weights is None or not link.is_symlink() or not link.is_file():
        return None
    config = link.with_name("config.json")
    if link.suffix == ".safetensors" and config.exists():
        raise GatesError(
            f"{link} is a link away from its config.json; name the folder {link.parent}"
        )
    found = link.with_name("tokenizer.json")
    return str(found) if found.exists() else None


def _below(root: Path, path: str | None) -> str | None:
    if path is None or path == "bytes":
        return path
    return Path(path).resolve().relative_to(root).as_posix()


def _slots(traced: Traced) -> list[Slot]:
    from pytest_gates.checks.slots import Slot  # noqa: PLC0415 - heavy
    from pytest_gates.model.telemetry import decode_number  # noqa: PLC0415 - heavy

    found = []
    for line in traced.lines:
        figures = {
            name: number
            for name, value in line.items()
            if name not in {"kind", "layer", "slot", "hash", "sketch"}
            and (number := decode_number(value)) is not None
        }
        found.append(Slot(line["layer"], line["slot"], figures))
    return found


def _findings(
    arguments: argparse.Namespace, traced: Traced, slots: Sequence[Slot]
) -> dict[str, Any]:
    """The first anomaly, or beside a reference the first divergence, and what to say of it."""
    from pytest_gates.checks.trace_parity import (  # noqa: PLC0415 - heavy
        NEXT,
        first_divergence,
        input_difference,
        tolerance_key,
    )

    if arguments.against is not None:
        refused = input_difference(traced.facts)
        if refused is not None:
            return {"first": None, "refused": f"not compared: {refused}", "told": []}
        parted = first_divergence(list(slots), tolerance_key(traced.facts))
        if parted is None:
            return {"first": None, "refused": None, "told": ["every slot agrees"]}
        told = [
            f"first divergent slot: {parted.slot.at}",
            f"own error: {parted.error:.3g}, limit {parted.limit:.3g}",
            f"eliminated: {len(parted.eliminated)} slots before it",
            f"next: {NEXT[parted.slot.name]}",
        ]
        return {"first": parted.slot.at, "refused": None, "told": told}
    return _anomaly(arguments.statistic, slots)


def _anomaly(statistic: str, slots: Sequence[Slot]) -> dict[str, Any]:
    """The same of one side, by the rule and the limits of `trace_spike`."""
    from pytest_gates.checks.trace_spike import (  # noqa: PLC0415 - heavy
        TraceSpike,
        look,
        told_of_broken,
    )

    check = TraceSpike(kind="trace_spike", statistic=statistic)
    seen = look(slots, statistic, float(check.ratio), float(check.deviations))
    if not seen.slots:
        known = sorted({name for slot in slots for name in slot.figures} & set(SHOWN))
        raise GatesError(f"the trace tells no {statistic}, only {', '.join(known) or 'hashes'}")
    if seen.broken is not None:
        told = [f"first anomaly: {told_of_broken(seen.broken, statistic)}"]
        return {"first": seen.broken.at, "refused": None, "told": told}
    if seen.anomaly is None:
        told = [f"undecided: {seen.undecided}" if seen.undecided else "no anomaly"]
        return {"first": None, "refused": None, "told": told}
    found = seen.anomaly
    told = [f"first anomaly: {found.first.told}"]
    told += [f"precursor: {one.told}" for one in found.precursors]
    told += [f"cascade: {one.told}" for one in found.cascade]
    return {"first": found.first.slot.at, "refused": None, "told": told}


def _page(
    arguments: argparse.Namespace, traced: Traced, slots: Sequence[Slot], found: Mapping[str, Any]
) -> str:
    """The heat map: of own errors against their limits, or of one side's statistic."""
    from pytest_gates.checks.tolerances import OWN_ERROR  # noqa: PLC0415 - heavy
    from pytest_gates.checks.trace_parity import tolerance_key  # noqa: PLC0415 - heavy
    from pytest_gates.report.heat_map import Map, heat_map  # noqa: PLC0415 - heavy

    title, limits, statistic = f"Trace of {Path(arguments.path).name}", None, arguments.statistic
    if arguments.against is not None:
        title += f" against {Path(arguments.against).name}"
        if found["refused"] is None:
            keys = tolerance_key(traced.facts)
            names = {one.name for one in slots}
            limits = {name: max(OWN_ERROR[key][name] for key in keys) for name in names}
            statistic = "own_rel_l2"
    lines = found["told"] or [found["refused"]]
    return heat_map(slots, Map(title, statistic, lines, found["first"], limits))


def _tell(slots: Sequence[Slot], found: Mapping[str, Any]) -> None:
    columns = [name for name in SHOWN if any(name in one.figures for one in slots)]
    say(f"{'layer':>5} {'slot':<13}" + "".join(f"{name:>12}" for name in columns))
    word = found["told"][0].partition(":")[0] if found["told"] else ""
    for one in slots:
        cells = "".join(
            f"{one.figures[name]:>12.4g}" if name in one.figures else " " * 12 for name in columns
        )
        mark = f"  <- {word}" if one.at == found["first"] else ""
        say(f"{one.layer if one.layer >= 0 else '-':>5} {one.name:<13}{cells}{mark}")
    for line in found["told"]:
        say(line)
    if found["refused"]:
        say(found["refused"])


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    columns = [name for name in WRITTEN if any(line.get(name) is not None for line in lines)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "slot", *columns])
    for line in lines:
        writer.writerow([line["layer"], line["slot"], *(line.get(name) for name in columns)])
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GatesError(f"{path}: cannot be written: {error.strerror}") from None

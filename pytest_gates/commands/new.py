"""`pytest-gates new`: a contract to begin with, from flags or from a few questions."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pytest_gates.commands.project import offer_root, project_root
from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.errors import GatesError

KINDS = ("training", "gpu", "forward", "recorded")
_KIND = f"--kind ({', '.join(KINDS)})"
SCHEMA = "contract.schema.json"
"""What `pytest-gates schema` printed, where a project keeps it."""


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "new",
        "write a contract to begin with",
        """
        Writes contracts/NAME.yaml: runs, gates with checks, each with verdict `pending`, and, but
        for a log, falsifiers that must turn them red. The file is validated before it is written.
        On a terminal, what is not said by options is asked. Then edit it, and judge it:
        pytest --gates contracts/
        Where the project's folder holds contract.schema.json (pytest-gates schema prints it), the
        first line names that for editors.
        """,
        (
            "pytest-gates new smoke --kind training",
            'pytest-gates new backend --kind gpu --gpu "NVIDIA H200" --budget-ms 60',
            "pytest-gates new nightly --kind recorded --file logs/train.jsonl --budget-ms 300",
        ),
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="names file, contract and gates")
    parser.add_argument("--kind", choices=KINDS, help="what the contract is about")
    parser.add_argument("--model", default="", metavar="PRESET",
                        help="llama-1m, llama-10m or llama-370m")  # fmt: skip
    parser.add_argument("--gpu", default="", metavar="NAME",
                        help="the GPU as NVML names it, for instance 'NVIDIA H200'")  # fmt: skip
    parser.add_argument("--budget-ms", type=float, metavar="MS",
                        help="what the median step must stay below")  # fmt: skip
    parser.add_argument("--file", default="", metavar="PATH",
                        help="the log to adopt, relative to the project")  # fmt: skip
    parser.add_argument("--format", choices=("jsonl", "json"), default="jsonl",
                        help="of the log (default: jsonl, a step a line)")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE",
                        help="where it goes (default: contracts/NAME.yaml)")  # fmt: skip
    offer_root(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask what is missing, fill in, validate, write; never over a file that is there."""
    from pytest_gates.contract.load import contract_from  # noqa: PLC0415 - heavy
    from pytest_gates.contract.runs import Caps  # noqa: PLC0415 - heavy
    from pytest_gates.starters import Answers, filled  # noqa: PLC0415 - heavy

    root = project_root(arguments.root)
    _ask(arguments)
    output: Path = arguments.output or root / "contracts" / f"{arguments.name}.yaml"
    _known_gpu(arguments.gpu)
    text = filled(
        Answers(
            name=arguments.name, kind=arguments.kind, model=arguments.model, gpu=arguments.gpu,
            budget_ms=arguments.budget_ms, file=arguments.file, format=arguments.format, root=root,
        )
    )  # fmt: skip
    if (root / SCHEMA).is_file():  # no line is better than one that leads nowhere
        named = Path(os.path.relpath(root / SCHEMA, output.parent)).as_posix()
        text = f"# yaml-language-server: $schema={named}\n#\n{text}"
    shown = output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output
    contract_from(text, str(shown), Caps())
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise GatesError(f"{shown} is there already; name another with -o") from None
    except OSError as error:
        raise GatesError(f"{shown}: {error.strerror}") from None
    say(f"written {shown}; judge it with: pytest --gates {shown.parent}")
    return 0


def _known_gpu(name: str) -> None:
    """Said of the option: the contract that a finding would name is not written yet."""
    from pytest_gates.vocabulary import GPUS, hint  # noqa: PLC0415 - heavy

    if name and name not in GPUS:
        listed = "pytest-gates schema, and GPUs of your own go into the contract's `gpus:`"
        raise GatesError(f"--gpu: unknown GPU {name!r}; {hint(name, GPUS, listed)}")


def _ask(arguments: argparse.Namespace) -> None:
    """Fill in what the options left open: on a terminal by asking."""
    if arguments.name is None:
        arguments.name = _answer("name of the contract", "NAME")
    if arguments.kind is None:
        from pytest_gates.starters import KINDS as MEANINGS  # noqa: PLC0415 - heavy

        told = "\n".join(f"  {kind:<10}{meaning}" for kind, meaning in MEANINGS.items())
        arguments.kind = _answer(f"what is it about?\n{told}\nkind", _KIND)
        if arguments.kind not in KINDS:
            raise GatesError(f"{arguments.kind!r} is no kind; there are {', '.join(KINDS)}")
    if arguments.kind == "gpu" and not arguments.gpu:
        arguments.gpu = _answer("GPU as NVML names it (NVIDIA H200)", "--gpu")
    if arguments.kind == "gpu" and arguments.budget_ms is None:
        arguments.budget_ms = _number(_answer("budget of the median step in ms", "--budget-ms"))
    if arguments.kind == "recorded" and not arguments.file:
        arguments.file = _answer("log of the run, relative to the project", "--file")


def _answer(question: str, option: str) -> str:
    if not sys.stdin.isatty():
        raise GatesError(f"{option} is missing, and there is no terminal to ask on")
    answer = input(f"{question}: ").strip()
    if not answer:
        raise GatesError(f"{option} is needed")
    return answer


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise GatesError(f"{text!r} is no number") from None

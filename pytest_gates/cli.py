"""`pytest-gates`: what people ask without running pytest."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_gates import __version__
from pytest_gates.errors import ContractError, GatesError

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 fine, 1 findings, 2 unusable arguments."""
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        return command(arguments)
    except GatesError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line talks
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-gates",
        description="Contracts about GPU training. To judge them: pytest --gates contracts/",
    )
    parser.add_argument("--version", action="version", version=f"pytest-gates {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    env = commands.add_parser("env", help="what torch and NVML see on this machine")
    env.add_argument("--json", action="store_true", help="for programs")
    env.set_defaults(command=_env)

    validate = commands.add_parser("validate", help="load contracts, run nothing")
    validate.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    validate.set_defaults(command=_validate)

    schema = commands.add_parser("schema", help="print the JSON Schema of a contract")
    schema.set_defaults(command=_schema)
    return parser


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command line talks


def _env(arguments: argparse.Namespace) -> int:
    from pytest_gates.run.worker import Worker  # noqa: PLC0415 - pydantic, for this command only

    with (
        tempfile.TemporaryDirectory(prefix="pytest-gates-") as folder,
        Worker(cache=Path(folder), root=Path.cwd()) as worker,
    ):
        facts = dict(worker.facts_of_machine())
        gpus = worker.gpus
        facts["nvml"] = gpus.unavailable or [gpu.name for gpu in gpus.all]
        facts["driver"] = gpus.driver
    if arguments.json:
        _say(json.dumps(facts, indent=2, sort_keys=True))
        return 0
    for name, value in sorted(facts.items()):
        _say(f"{name:<20}{value if isinstance(value, str) else json.dumps(value)}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from pytest_gates.contract.load import load_contract  # noqa: PLC0415 - as above
    from pytest_gates.contract.runs import Caps  # noqa: PLC0415

    wrong = 0
    for file in _contracts(arguments.paths):
        try:
            contract = load_contract(file, str(file), Caps())
        except ContractError as error:
            _say(str(error))
            wrong += 1
            continue
        prose = sum(item.prose for item in contract.items)
        _say(f"{file}: {len(contract.gates)} gates, {len(contract.falsifiers)} falsifiers"
             + (f", {prose} of them prose" if prose else ""))  # fmt: skip
    return 1 if wrong else 0


def _contracts(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise GatesError(f"{path}: there is no such file or folder")
        below = sorted(one for one in path.rglob("*") if one.suffix in {".yaml", ".yml"})
        files += below if path.is_dir() else [path]
    return files


def _schema(arguments: argparse.Namespace) -> int:
    from pytest_gates.schema import published  # noqa: PLC0415 - as above

    assert arguments is not None
    _say(json.dumps(published(), indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

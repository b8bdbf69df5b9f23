"""What a run was configured to, value by value, each with where it came from; without torch."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gates.model.config import PretrainRun


def configuration(run: PretrainRun) -> Iterator[tuple[str, object, str]]:
    """Name, value and origin (`default`, `explicit`, `regime finetune`) of each setting.

    Names are dotted as in the contract. A value that equals its default counts as `default`: a
    run's hash does not tell the two apart either.
    """
    told = run.model_dump(mode="json", exclude_defaults=True)
    sets = run.regime.sets if run.regime is not None else ()
    regime = f"regime {run.regime.name}" if run.regime is not None else ""
    for name, value in run.optimizer.model_dump(mode="json").items():
        given = name in told.get("optimizer", {})
        yield f"optimizer.{name}", value, _origin(given, regime if name in sets else "")
    for name in ("batch_size", "seq_len", "steps", "seed", "micro_batches", "epochs",
                 "validate_every", "target_val_loss", "on_data_end", "deterministic"):  # fmt: skip
        value = getattr(run, name)
        yield name, value, _origin(name in told, regime if name in sets else "")
    yield "first_val_cap", run.first_val_cap, regime or "default"


def _origin(given: bool, regime: str) -> str:
    return regime or ("explicit" if given else "default")

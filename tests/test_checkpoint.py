"""Checkpoints: whole or not there, readable by others, and continuing equals never stopping."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training import TINY, Said, Train

from pytest_gates.model import trainer
from pytest_gates.model.sabotage import seams_for
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.tensor_file import write_tensors
from pytest_gates.model.writer import TelemetryWriter

SETTINGS: dict[str, Any] = {"steps": 9, "validate_every": 3, "checkpoint": "epoch"}
FIELDS = {
    "epoch", "train_loss", "val_loss", "train_ppl", "val_ppl", "optimizer_state_sha256",
    "wall_seconds", "tokens_seen", "grad_norm_max",
}  # fmt: skip


def made(train: Train, **settings: Any) -> Path:
    train(**{**SETTINGS, **settings})
    return train.folder / f"out-{train.count}" / "checkpoints"


def resumed(
    train: Train, folder: Path, epoch: int | str = "last", seams: Seams | None = None,
    **settings: Any,
) -> Said:  # fmt: skip
    source = {**train.request(**SETTINGS).run.model_dump(mode="json"), "resume": None}
    request = train.request(
        resume_from=folder, **{**SETTINGS, "resume": {"run": source, "epoch": epoch}, **settings}
    )
    out = train.out()
    with TelemetryWriter(out) as writer:
        trainer.run(request, torch.device("cpu"), writer, seams or Seams())
    return Said(out)


def test_each_finished_epoch_has_a_checkpoint_and_its_metadata(train: Train) -> None:
    folder = made(train)
    said = Said(folder.parent)
    assert [event["epoch"] for event in said.events("checkpoint_saved")] == [0, 1, 2]
    for epoch in said.epochs:
        stem = folder / f"epoch-{int(epoch['epoch']):03d}"
        metadata = json.loads(stem.with_suffix(".metadata.json").read_text())
        assert set(metadata) >= FIELDS
        assert metadata["val_loss"] == epoch["val_loss"]
        assert metadata["train_loss"] == epoch["epoch_loss"]
        assert (
            metadata["optimizer_state_sha256"]
            == (metadata["files"][f"{stem.name}.optimizer.safetensors"]["sha256"])
        )
    assert not list(folder.glob(".*"))
    assert said.facts["checkpoint_blocked_ms"] > 0


def test_others_read_the_parameters_under_their_hugging_face_names(train: Train) -> None:
    folder = made(train)
    with safe_open(folder / "epoch-002.safetensors", "pt") as file:
        names = set(file.keys())
        assert file.get_tensor("model.embed_tokens.weight").shape == (256, 16)
    assert {"lm_head.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight"} <= names
    assert len(names) == 2 * 9 + 3
    with safe_open(folder / "epoch-002.optimizer.safetensors", "pt") as file:
        states = set(file.keys())
        assert file.get_tensor("lm_head.weight.step").item() == 9
    moments = {f"{name}.{key}" for name in names for key in ("exp_avg", "exp_avg_sq", "step")}
    assert states == moments | {"rng.cpu"}


@pytest.mark.parametrize("epoch", [0, 1])
def test_continuing_equals_never_having_stopped(train: Train, epoch: int) -> None:
    folder = made(train)
    whole, after = Said(folder.parent), resumed(train, folder, epoch)
    begin = 3 * (epoch + 1)
    assert after.facts["resumed_at_step"] == begin
    for metric in ("train_loss", "grad_norm", "lr", "data_hash", "tokens"):
        assert after.column(metric) == whole.column(metric)[begin:]
    for epoch_after, epoch_whole in zip(after.epochs, whole.epochs[epoch + 1 :], strict=True):
        assert epoch_after["epoch"] == epoch_whole["epoch"]
        assert epoch_after["val_loss"] == epoch_whole["val_loss"]
    for fact in ("param_sha256", "optimizer_steps", "tokens"):
        assert after.facts[fact] == whole.facts[fact]


def test_a_checkpoint_of_a_gpu_is_continued_on_a_cpu(train: Train) -> None:
    """It has the state of a generator more, from which no step draws."""
    folder = made(train)
    expected = resumed(train, folder, 0).facts["param_sha256"]
    file, metadata = folder / "epoch-000.optimizer.safetensors", folder / "epoch-000.metadata.json"
    said = json.loads(metadata.read_text())
    state = load_file(file) | {"rng.cuda": torch.zeros(16, dtype=torch.uint8)}
    said["files"][file.name] = write_tensors(file, state)
    metadata.write_text(json.dumps(said))
    assert resumed(train, folder, 0).facts["param_sha256"] == expected
    said["files"][file.name] = write_tensors(file, state | {"rng.tpu": state["rng.cuda"]})
    metadata.write_text(json.dumps(said))
    with pytest.raises(RunRefusedError, match=r"has 1 tensors beside the run's .*, rng\.tpu"):
        resumed(train, folder, 0)


def test_the_source_is_only_read(train: Train) -> None:
    folder = made(train)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    said = resumed(train, folder, 1)
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    hashes = json.loads((folder / "epoch-001.metadata.json").read_text())["files"]
    assert said.facts["resumed_files"] == {n: file["sha256"] for n, file in hashes.items()}


def test_the_guard_remembers_the_epochs_before_the_resume(train: Train) -> None:
    folder = made(train)
    with pytest.raises(RunRefusedError) as caught:
        resumed(train, folder, 0, stimulus={"kind": "val_loss", "epoch": 1, "value": 11.5})
    assert caught.value.status == "DIVERGENCE"
    assert "twice the epoch before's" in caught.value.reason


def _cut(folder: Path) -> None:
    path = folder / "epoch-002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _flip(folder: Path) -> None:
    path = folder / "epoch-002.optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _foreign(folder: Path) -> None:
    (folder / "epoch-002.metadata.json").write_text('{"epoch": 2}')


def _without_weights(folder: Path) -> None:
    (folder / "epoch-002.safetensors").unlink()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (_cut, "has [0-9]+ bytes, its metadata tells [0-9]+"),
        (_flip, "the file was changed"),
        (_foreign, "it is no pytest-gates/checkpoint/1"),
        (_without_weights, "there is no such file"),
        (_empty, "no checkpoint that is finished"),
    ],
)
def test_a_damaged_checkpoint_is_refused_before_the_first_step(
    train: Train, spoil: Callable[[Path], None], what: str
) -> None:
    folder = made(train)
    spoil(folder)
    with pytest.raises(RunRefusedError, match=what) as caught:
        resumed(train, folder, steps=12)
    assert caught.value.status == "CONFIG_REFUSED"
    assert Said(train.folder / f"out-{train.count}").steps == []


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (
            {"model": {**TINY, "intermediate": 32}},
            r"gate_proj.* is F32 \[24, 16\].*\[32, 16\]",
        ),
        ({"model": {**TINY, "layers": 3}}, "lacks 9 tensors beside the run's 30"),
        ({"model": {**TINY, "layers": 1}}, "has 9 tensors beside the run's 12"),
        ({"batch_size": 2}, "batch_size 4, the run has 2"),
        ({"seed": 7}, "seed 0, the run has 7"),
        ({"steps": 9}, "is at step 8, the run of 9 steps has none left"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_numbers(
    train: Train, settings: dict[str, Any], what: str
) -> None:
    folder = made(train)
    with pytest.raises(RunRefusedError, match=what):
        resumed(train, folder, **{"steps": 12, **settings})


def test_an_unfinished_checkpoint_does_not_count(train: Train) -> None:
    folder = made(train)
    (folder / "epoch-002.metadata.json").unlink()
    (folder / ".epoch-002.safetensors.draft").write_bytes(b"half")
    assert resumed(train, folder).facts["resumed_at_step"] == 6


def test_a_full_disk_is_said_and_leaves_the_one_before(train: Train) -> None:
    folder = train.folder / "out-1" / "checkpoints"

    def lock(step: int) -> None:
        if step == 4:
            shutil.rmtree(folder)
            folder.write_text("in the way")

    with pytest.raises(OSError, match=r"checkpoints/\.epoch-00"):
        train(Seams(before_step=lock), **SETTINGS)


def test_statistics_of_parameters_at_chosen_steps(train: Train) -> None:
    said = train(steps=4, statistics=[0, 3], optimizer={"clip": 0.1, "warmup_steps": 0})
    lines = [line for line in said.lines if line["kind"] == "parameter"]
    assert len(lines) == 2 * (2 * 9 + 3)
    assert {line["layer"] for line in lines} == {-1, 0, 1}
    first = [line for line in lines if line["step"] == 0]
    gate = next(line for line in first if line["name"] == "mlp.gate_proj.weight")
    assert gate["weight_std"] == pytest.approx(0.02, rel=0.15)
    assert all(line["gradient_norm"] > 0 and line["update_norm"] > 0 for line in first)
    total = math.sqrt(sum(line["gradient_norm"] ** 2 for line in first))
    assert said.steps[0]["clipped_norm"] == pytest.approx(total)
    assert said.steps[0]["clipped_norm"] <= 0.1 * (1 + 1e-5) < said.steps[0]["grad_norm"]
    assert "clipped_norm" not in said.steps[1]
    assert said.column("train_loss") == train(
        steps=4, optimizer={"clip": 0.1, "warmup_steps": 0}
    ).column("train_loss")


def test_a_step_taken_apart_is_all_there(train: Train) -> None:
    said = train(steps=8, anatomy=5, micro_batches=2)
    parts = [f"{part}_ms" for part in ("gap", "data", "forward", "backward", "clip", "optimizer")]
    assert all(parts[0] not in step for step in said.steps[:3])
    for step in said.steps[3:]:
        assert sum(step[part] for part in parts) == pytest.approx(step["wall_ms"], rel=0.05)
    shares = [kernel["share_pct"] for kernel in said.facts["kernels"]]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 100.001
    assert said.facts["matmul_tflops"] > 0
    step_ms = sorted(sum(step[part] for part in parts) for step in said.steps[3:])[2]
    reached = said.facts["step_flops"] / step_ms / 1e9
    share = said.facts["model_flops_share_pct"]
    assert share == pytest.approx(100 * reached / said.facts["matmul_tflops"])


def test_a_flipped_bit_keeps_the_file_s_length_and_is_refused(train: Train) -> None:
    folder = made(train, stimulus={"kind": "flipped_bit", "epoch": 1})
    said = Said(folder.parent)
    assert [event["stimulus"] for event in said.events("stimulus_applied")] == ["flipped_bit"]
    assert len(resumed(train, folder, 0).steps) == 6
    with pytest.raises(RunRefusedError, match=r"SHA-256 is .* its metadata tells"):
        resumed(train, folder, 1)
    unguarded = resumed(train, folder, 1, seams_for({"fault": "hash_check_off"}))
    assert len(unguarded.events("training_started")) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {**TINY, "layers": 1}},
        {"model": {**TINY, "hidden": 8}},
        {"batch_size": 2},
        {"seed": 1},
        {"steps": 3, "validate_every": 0},
    ],
)
def test_without_the_guard_what_does_not_match_is_continued(
    train: Train, settings: dict[str, Any]
) -> None:
    folder = made(train)
    with pytest.raises(RunRefusedError) as refused:
        resumed(train, folder, 0, **settings)
    assert refused.value.status == "CONFIG_REFUSED"
    unguarded = resumed(train, folder, 0, seams_for({"fault": "config_match_off"}), **settings)
    assert len(unguarded.events("training_started")) == 1


def test_moments_that_are_lost_are_seen_in_the_count(train: Train) -> None:
    folder = made(train)
    whole, lost = (
        resumed(train, folder, 0, seams) for seams in (None, seams_for({"fault": "moments_lost"}))
    )
    assert whole.facts["resumed_tensors"] - lost.facts["resumed_tensors"] == 3 * 21
    assert lost.facts["param_sha256_initial"] == whole.facts["param_sha256_initial"]
    anew = resumed(train, folder, 0, seams_for({"fault": "resume_ignored"}))
    assert (len(anew.steps), anew.events("checkpoint_loaded")) == (9, [])

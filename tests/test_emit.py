"""Emitters in the program's own process: what they tell, and what they leave alone."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from training import Said

from pytest_gates.emit import training
from pytest_gates.readers.telemetry import parse_telemetry

ROOT = Path(__file__).parent.parent


def parsed(folder: Path) -> Any:
    telemetry, notes = parse_telemetry((folder / "telemetry-0.jsonl").read_bytes(), "told")
    assert notes == ()
    return telemetry


def a_loop(out: Path | None, steps: int = 4, fail_at: int | None = None) -> list[float]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    losses = []
    with training(model, optimizer, out=out) as told:
        for step in range(steps):
            if step == fail_at:
                raise RuntimeError("in the loop")
            loss = model(torch.ones(2, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            told.step(loss, lr=0.1, tokens=6, grad_norm=norm, clipped_norm=0.5)
            losses.append(loss.item())
            if step == 1:
                told.epoch(1.25)
    return losses


def test_a_plain_loop_tells_each_step(tmp_path: Path) -> None:
    losses = a_loop(tmp_path)
    told = parsed(tmp_path)
    assert told.steps.columns["step"] == (0.0, 1.0, 2.0, 3.0)
    assert told.steps.columns["train_loss"] == pytest.approx(losses, rel=0, abs=0)
    assert told.steps.columns["tokens"] == (6.0, 12.0, 18.0, 24.0)
    assert told.steps.columns["clipped_norm"] == (0.5,) * 4
    assert all(wall > 0 for wall in told.steps.columns["wall_ms"])
    assert all(held > 0 for held in told.steps.columns["memory_mib"])
    assert told.epochs.columns["val_loss"] == (1.25,)
    assert told.facts["device_resolved"] == "cpu"
    assert told.facts["parameters"] == 4
    for when in ("before", "after"):
        placed = told.facts[f"residency_{when}"]
        assert placed["parameters"] == {"cpu": 16}
        assert placed["optimizer"] == {"cpu": 32}  # both moments; its counters lie on any host
    assert [event.event for event in told.events][-1] == "run_finished"
    assert "training_started" in [event.event for event in told.events]


def test_outside_of_a_run_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_GATES_OUT", raising=False)
    monkeypatch.chdir(tmp_path)
    losses = a_loop(None)
    assert list(tmp_path.iterdir()) == []
    assert losses == a_loop(tmp_path)  # and telling changes no number


def test_a_loop_that_fails_keeps_what_was_told_and_does_not_say_that_it_finished(
    tmp_path: Path,
) -> None:
    with pytest.raises(RuntimeError, match="in the loop"):
        a_loop(tmp_path, fail_at=2)
    told = parsed(tmp_path)
    assert told.steps.columns["step"][0] == 0.0
    assert "run_finished" not in [event.event for event in told.events]


def test_a_second_training_of_a_program_is_not_told(tmp_path: Path) -> None:
    losses = a_loop(tmp_path)
    told = parsed(tmp_path).steps
    with pytest.warns(UserWarning, match="this is another one; it is not told"):
        assert a_loop(tmp_path) == losses
    assert parsed(tmp_path).steps == told


def test_a_rank_tells_into_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    a_loop(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["telemetry-3.jsonl"]


def test_the_device_is_called_what_the_run_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_GATES_DEVICE", "cuda:0")
    a_loop(tmp_path)
    facts = parsed(tmp_path).facts
    # Asked for a GPU, found on the CPU: layer L0 is refuted by the program's own word.
    assert (facts["device_requested"], facts["device_resolved"]) == ("cuda:0", "cpu")


HF = """
import sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from pytest_gates.emit.transformers import GatesCallback
out, clip, parts = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=1)
windows = [{"input_ids": one, "labels": one} for one in torch.arange(24 * 8).reshape(-1, 8) % 32]
args = TrainingArguments(output_dir=str(out / "o"), max_steps=6,
    per_device_train_batch_size=4 // parts, gradient_accumulation_steps=parts, logging_steps=1,
    save_strategy="no", eval_strategy="steps", eval_steps=3, report_to=[], use_cpu=True,
    disable_tqdm=True, max_grad_norm=clip, seed=0)
model = LlamaForCausalLM(config)
trainer = Trainer(model=model, args=args, train_dataset=windows, eval_dataset=windows[:4],
                  callbacks=[GatesCallback(out)])
trainer.train()
trainer.state.save_to_json(str(out / "trainer_state.json"))
"""

LIGHTNING = """
import sys
from pathlib import Path
import torch
import pytorch_lightning as lightning
from pytest_gates.emit.lightning import GatesCallback
out, parts = Path(sys.argv[1]), int(sys.argv[2])
lightning.seed_everything(0)
class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.seen = []
    def training_step(self, batch, _):
        loss = self.layer(batch[0]).square().mean()
        self.seen.append(loss.item())
        return loss
    def validation_step(self, batch, _):
        self.log("val_loss", self.layer(batch[0]).square().mean())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(24, 2)), batch_size=2)
model = Model()
trainer = lightning.Trainer(max_steps=6, accumulate_grad_batches=parts, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    accelerator="cpu", val_check_interval=4, callbacks=[GatesCallback(out)])
trainer.fit(model, data, data)
import json
(out / "seen.json").write_text(json.dumps(model.seen))
"""


def emitted(source: str, *args: object) -> Any:
    command = [sys.executable, "-c", source, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return parsed(Path(str(args[0])))


@pytest.mark.parametrize(
    ("clip", "parts"), [(1.0, 1), pytest.param(0.0, 2, marks=pytest.mark.slow)]
)
def test_transformers_trainer_tells_what_it_logs(tmp_path: Path, clip: float, parts: int) -> None:
    told = emitted(HF, tmp_path, clip, parts)
    history = json.loads((tmp_path / "trainer_state.json").read_text("utf-8"))["log_history"]
    logged = [entry for entry in history if "loss" in entry]
    columns = told.steps.columns
    assert columns["step"] == tuple(float(step) for step in range(6))
    assert columns["train_loss"] == pytest.approx([entry["loss"] for entry in logged], rel=1e-4)
    assert columns["lr"] == pytest.approx([entry["learning_rate"] for entry in logged])
    assert columns["grad_norm"] == pytest.approx([entry["grad_norm"] for entry in logged], rel=1e-4)
    if clip:
        assert all(norm <= clip * 1.001 for norm in columns["clipped_norm"])
    assert columns["tokens"] == tuple(32.0 * (step + 1) for step in range(6))
    validated = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert told.epochs.columns["val_loss"] == pytest.approx(validated)
    assert told.facts["residency_after"]["optimizer"]["cpu"] > 0


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_lightning_tells_what_its_steps_return(tmp_path: Path, parts: int) -> None:
    told = emitted(LIGHTNING, tmp_path, parts)
    seen = json.loads((tmp_path / "seen.json").read_text("utf-8"))
    means = [sum(seen[n * parts : (n + 1) * parts]) / parts for n in range(6)]
    columns = told.steps.columns
    assert columns["train_loss"] == pytest.approx(means, rel=1e-5)
    assert all(norm > 0 for norm in columns["grad_norm"])
    assert columns["lr"] == (0.1,) * 6
    assert len(told.epochs) >= 1
    assert [event.event for event in told.events][-1] == "run_finished"


def test_said_reads_it_as_it_reads_our_own(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a_loop(tmp_path)
    assert Said(tmp_path).column("train_loss")

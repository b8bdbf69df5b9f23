"""The real tools' own logs: `python tests/data/make.py FOLDER`; see README.md beside this file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytorch_lightning as lightning
import torch
from mlperf_logging import mllog
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

STEPS = 8
TOKENS = torch.arange(STEPS * 4 * 8).reshape(-1, 8) % 32


class Pair(lightning.LightningModule):
    """A linear layer that learns to be zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("val_loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_state(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    windows = [{"input_ids": window, "labels": window} for window in TOKENS]
    args = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, logging_steps=1,
        eval_strategy="steps", eval_steps=4, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, include_num_input_tokens_seen=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    trainer = Trainer(model=model, args=args, train_dataset=windows, eval_dataset=windows[:4])
    trainer.train()
    trainer.save_state()


def lightning_csv(folder: Path) -> Path:
    logger = CSVLogger(str(folder))
    trainer = lightning.Trainer(
        max_steps=STEPS, logger=logger, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, accelerator="cpu",
        val_check_interval=4,
    )  # fmt: skip
    data = torch.ones(STEPS, 2)
    trainer.fit(Pair(), DataLoader(data, batch_size=1), DataLoader(data[:2], batch_size=1))
    return Path(logger.log_dir) / "metrics.csv"


def tensorboard(folder: Path) -> Path:
    with SummaryWriter(str(folder)) as writer:
        for step in range(STEPS):
            writer.add_scalar("loss/train", 4.0 / (1 + step), step)
            writer.add_scalar("seconds", 0.25, step)
            writer.add_scalar("newer/style", step + 0.5, step, new_style=True)
        writer.add_histogram("weights", TOKENS.float(), 0)
        writer.add_text("note", "no number", 0)
    [path] = folder.iterdir()
    return path


def mlperf(path: Path) -> None:
    path.unlink(missing_ok=True)  # its logger appends
    mllog.config(filename=str(path), default_namespace="", root_dir=str(path.parent))
    logger = mllog.get_mllogger()
    logger.start(key=mllog.constants.RUN_START)
    for step in range(STEPS):
        logger.event(
            key="train_loss", value=4.0 / (1 + step), metadata={"step_num": step, "epoch_num": 0}
        )
        stats = {"throughput": 1000.0 + step}
        logger.event(key="tracked_stats", value=stats, metadata={"step_num": step})
    logger.end(key=mllog.constants.RUN_STOP, metadata={"status": mllog.constants.SUCCESS})


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        trainer_state(Path(scratch) / "transformers")
        state = Path(scratch) / "transformers" / "trainer_state.json"
        (folder / "trainer_state.json").write_bytes(state.read_bytes())
        (folder / "metrics.csv").write_bytes(lightning_csv(Path(scratch) / "l").read_bytes())
        (folder / "events.tfevents").write_bytes(tensorboard(Path(scratch) / "t").read_bytes())
    mlperf(folder / "mlperf.log")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

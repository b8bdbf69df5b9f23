"""A bigram model with Lightning, over the bytes of one of Python's own sources.

    python train.py --steps 60

`GatesCallback` is all that pytest-gates needs; without a gate's run it does nothing.
"""

import argparse
import os
from pathlib import Path

import pytorch_lightning as lightning
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pytest_gates.emit.lightning import GatesCallback

VOCAB, WIDTH = 256, 128


class Bigram(lightning.LightningModule):
    """The next byte from this one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.logits = nn.Linear(WIDTH, VOCAB, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.normal_(self.logits.weight, std=0.02)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Mean cross-entropy of a batch."""
        tokens, following = batch
        return functional.cross_entropy(self.logits(self.embedding(tokens)), following)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        rate = float(os.environ.get("LEARNING_RATE", "1e-2"))
        return torch.optim.AdamW(self.parameters(), lr=rate)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    lightning.seed_everything(0)
    data = bytearray(Path(argparse.__file__).read_bytes())
    text = torch.frombuffer(data, dtype=torch.uint8).long()
    pairs = TensorDataset(text[:-1], text[1:])
    trainer = lightning.Trainer(
        max_steps=options.steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[GatesCallback()],
    )
    trainer.fit(Bigram(), DataLoader(pairs, batch_size=1024, shuffle=True))


if __name__ == "__main__":
    main()

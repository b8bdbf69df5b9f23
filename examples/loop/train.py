"""A small GPT over bytes in a plain loop, after nanoGPT's train.py.

    python train.py --steps 60

The two lines with `told` are all that pytest-gates needs; without a gate's run they do nothing.
"""

import argparse
import math
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pytest_gates.emit import training

VOCAB = 256
LEARNING_RATE = float(os.environ.get("LEARNING_RATE", "3e-3"))


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """B T C -> B T C."""
        batch, time, width = x.shape
        shape = (batch, time, self.heads, width // self.heads)
        q, k, v = (
            part.view(shape).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, time, width))
        return x + self.feed(self.norms[1](x))


class Gpt(nn.Module):
    """Token and position embeddings, blocks, a norm, and the logits."""

    def __init__(self, width: int, layers: int, heads: int, time: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, width), nn.Embedding(time, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.logits = nn.LayerNorm(width), nn.Linear(width, VOCAB, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """B T -> B T VOCAB."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.logits(self.norm(self.blocks(self.tokens(tokens) + self.places(places))))


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--time", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = torch.frombuffer(bytearray(Path(argparse.__file__).read_bytes()), dtype=torch.uint8)
    model = Gpt(width=64, layers=2, heads=4, time=options.time).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    with training(model, optimizer) as told:
        for step in range(options.steps):
            rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / options.steps))
            optimizer.param_groups[0]["lr"] = rate
            starts = torch.randint(len(text) - options.time - 1, (options.batch,)).tolist()
            windows = torch.stack([text[at : at + options.time + 1] for at in starts])
            windows = windows.long().to(device, non_blocking=True)
            logits = model(windows[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            told.step(loss, lr=rate, tokens=windows[:, 1:].numel(), grad_norm=norm)


if __name__ == "__main__":
    main()

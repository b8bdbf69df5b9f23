"""A team's own trainer, in miniature: a bigram model of this file's bytes, in plain Python.

    python train.py logs/train.jsonl

It knows nothing of pytest-gates. It writes what it measures, one JSON object a step.
"""

import itertools
import json
import math
import random
import sys
import time
from pathlib import Path

STEPS = 60
BATCH = 64
LEARNING_RATE = 8.0


def main(path: Path) -> None:
    """Train, and write a line a step."""
    text = Path(__file__).read_bytes()
    symbols = sorted(set(text))
    index = {symbol: place for place, symbol in enumerate(symbols)}
    pairs = [(index[a], index[b]) for a, b in itertools.pairwise(text)]
    weights = [[0.0] * len(symbols) for _ in symbols]
    chance = random.Random(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as log:
        for step in range(STEPS):
            started = time.perf_counter()
            loss = train_step(weights, chance.sample(pairs, BATCH))
            wall_ms = (time.perf_counter() - started) * 1000
            log.write(json.dumps({"step": step, "train_loss": loss, "wall_ms": wall_ms}) + "\n")


def train_step(weights: list[list[float]], batch: list[tuple[int, int]]) -> float:
    """One step of gradient descent; the mean cross-entropy of the batch before it, in nats."""
    total = 0.0
    for first, second in batch:
        row = weights[first]
        exponentials = [math.exp(weight) for weight in row]
        norm = math.fsum(exponentials)
        total -= math.log(exponentials[second] / norm)
        for place, exponential in enumerate(exponentials):
            row[place] -= LEARNING_RATE / BATCH * (exponential / norm - (place == second))
    return total / len(batch)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

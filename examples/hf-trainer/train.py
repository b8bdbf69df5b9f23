"""A Llama with transformers.Trainer, from scratch, over the bytes of Python's own sources.

    python train.py --model 370m --batch 16 --time 512 --steps 30

`GatesCallback` is all that pytest-gates needs; without a gate's run it does nothing.
"""

import argparse
import os
import sysconfig
import tempfile
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from pytest_gates.emit.transformers import GatesCallback

MODELS = {
    "tiny": LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=176, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
    ),
    "370m": LlamaConfig(
        vocab_size=50257, hidden_size=1024, intermediate_size=2816, num_hidden_layers=24,
        num_attention_heads=16, num_key_value_heads=4, max_position_embeddings=2048,
    ),
}  # fmt: skip


class Windows(Dataset):
    """Windows of so many bytes, each its own label."""

    def __init__(self, time: int, count: int) -> None:
        sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = b"".join(path.read_bytes() for path in sources)
        if len(text) < time * count:
            raise ValueError("the sources are too short for so many windows")
        self._tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._time, self._count = time, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self._tokens[index * self._time : (index + 1) * self._time].long()
        return {"input_ids": window, "labels": window}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--time", type=int, default=64)
    options = parser.parse_args()
    set_seed(0)
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=LlamaForCausalLM(MODELS[options.model]),
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=options.batch,
                max_steps=options.steps,
                learning_rate=float(os.environ.get("LEARNING_RATE", "1e-3")),
                warmup_steps=5,
                bf16=gpu,
                use_cpu=not gpu,
                logging_steps=10,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Windows(options.time, options.batch * options.steps),
            callbacks=[GatesCallback()],
        )
        trainer.train()


if __name__ == "__main__":
    main()

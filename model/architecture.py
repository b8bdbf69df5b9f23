"""What is trained on what: the architecture, its presets, and the data of a run; without torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictStr, model_validator

from pytest_gates.model.settings import Count, Fraction, Positive, Settings


class Architecture(Settings):
    """A Llama-family decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU (arXiv:2302.13971)."""

    hidden: Count
    """Width of the residual stream."""
    layers: Count
    """Number of transformer blocks."""
    heads: Count
    """Query heads."""
    kv_heads: Count
    """Key and value heads; divides `heads` (arXiv:2305.13245)."""
    intermediate: Count
    """Width of the feed-forward layer."""
    vocab: Count
    """Size of the vocabulary."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary position embedding (arXiv:2104.09864)."""
    norm_eps: Positive = 1e-5
    """Epsilon of RMSNorm (arXiv:1910.07467)."""
    tied: StrictBool = False
    """Whether the output projection is the embedding's own storage."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not divisible by heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"hidden / heads = {self.head_dim} is odd; RoPE rotates pairs")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: q, k, v, o, gate, up, down and two norms."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * self.head_dim
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, each storage counted once."""
        embedding = self.vocab * self.hidden
        ends = embedding if self.tied else 2 * embedding
        return ends + self.layers * self.block_parameters + self.hidden

    @property
    def training_bytes(self) -> int:
        """Fewest bytes of a training run's state: fp32 masters and the two moments of AdamW.

        Gradients may be freed between steps, and activations depend on the implementation, so
        neither is counted.
        """
        return 12 * self.parameters

    def flops_per_token(self, seq_len: int) -> int:
        """Fewest floating-point operations a token costs, forward and backward.

        Six a matmul parameter (arXiv:2001.08361, table 1) and, for causal attention, half of the
        12 * layers * hidden * seq_len of arXiv:2204.02311, appendix B. The embedding lookup is
        no matmul; the output projection is one, tied or not.
        """
        matmul = self.layers * (self.block_parameters - 2 * self.hidden) + self.vocab * self.hidden
        return 6 * matmul + 6 * self.layers * self.hidden * seq_len


PRESETS: dict[str, Architecture] = {
    "llama-1m": Architecture(
        hidden=128, layers=5, heads=4, kv_heads=2, intermediate=352, vocab=256
    ),
    "llama-10m": Architecture(
        hidden=320, layers=8, heads=8, kv_heads=4, intermediate=864, vocab=256
    ),
    "llama-370m": Architecture(
        hidden=1024, layers=24, heads=16, kv_heads=4, intermediate=2816, vocab=50257
    ),
}
"""Named architectures: ~1M and ~10M parameters over bytes for CPUs, 373,509,120 for GPUs."""

TOKENIZER_GRAMMAR = re.compile(r"bytes|bpe-[1-9][0-9]{2,5}")
BYTES_VOCAB = 256


def tokenizer_vocab(tokenizer: str) -> int:
    """Number of ids the tokenizer `bytes` or `bpe-N` can produce."""
    return BYTES_VOCAB if tokenizer == "bytes" else int(tokenizer.removeprefix("bpe-"))


class Data(Settings):
    """The text a run trains on: a corpus with a tokenizer, or token shards."""

    corpus: Literal["python-stdlib"] | None = None
    """`python-stdlib`: the sources of the running Python's own standard library."""
    tokenizer: Annotated[StrictStr, Field(pattern=r"^(bytes|bpe-[1-9][0-9]{2,5})$")] = "bytes"
    """`bytes`, or `bpe-N`: a byte-level BPE of N ids trained on the corpus and cached."""
    shards: tuple[StrictStr, ...] = ()
    """Paths of `.bin` token shards (raw or with llm.c's header), relative to the project."""
    shard_dtype: Literal["uint16", "uint32"] = "uint16"
    """Type of a token in the shards."""
    validation: Fraction = 0.05
    """Share of the tokens that is held out for validation, taken from the end."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.shards) == (self.corpus is not None):
            raise ValueError("give either corpus or shards")
        return self

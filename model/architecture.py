"""What is trained on what: the architecture, its presets, and the data of a run; without torch."""

from __future__ import annotations

import math
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
    attention_bias: StrictBool = False
    """Whether q, k and v have a bias (Qwen2, arXiv:2407.10671)."""
    context: Count | None = None
    """Most positions the model was made for; None: not known."""

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
        """Parameters of one block: q, k, v, o, gate, up, down, two norms and biases."""
        narrow = self.kv_heads * self.head_dim
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * narrow
        attention += (self.hidden + 2 * narrow) * self.attention_bias
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, each storage counted once."""
        embedding = self.vocab * self.hidden
        ends = embedding if self.tied else 2 * embedding
        return ends + self.layers * self.block_parameters + self.hidden

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of a checkpoint in the layout of Hugging Face, with its shape.

        A tied output projection has no tensor of its own.
        """
        C, F, narrow = self.hidden, self.intermediate, self.kv_heads * self.head_dim
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (C,),
            "self_attn.q_proj.weight": (C, C),
            "self_attn.k_proj.weight": (narrow, C),
            "self_attn.v_proj.weight": (narrow, C),
            "self_attn.o_proj.weight": (C, C),
            "post_attention_layernorm.weight": (C,),
            "mlp.gate_proj.weight": (F, C),
            "mlp.up_proj.weight": (F, C),
            "mlp.down_proj.weight": (C, F),
        }
        if self.attention_bias:
            biases = {"q": C, "k": narrow, "v": narrow}
            block |= {f"self_attn.{name}_proj.bias": (width,) for name, width in biases.items()}
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, C)}
        for layer in range(self.layers):
            shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
        shapes["model.norm.weight"] = (C,)
        return shapes if self.tied else {**shapes, "lm_head.weight": (self.vocab, C)}

    @property
    def training_bytes(self) -> int:
        """Fewest bytes of a training run's state: fp32 masters and the two moments of AdamW.

        Gradients may be freed between steps, and activations depend on the implementation, so
        neither is counted.
        """
        return 12 * self.parameters

    def shard_bytes(self, ranks: int) -> int:
        """The same for the smallest shard: rows are dealt to ranks in equal parts, rounded up."""
        total = 0
        for rows, *rest in self.shapes().values():
            part = -(-rows // ranks)
            total += 12 * max(0, rows - (ranks - 1) * part) * math.prod(rest)
        return total

    def flops_per_token(self, seq_len: int) -> int:
        """Fewest floating-point operations a token costs, forward and backward.

        Six a matmul parameter (arXiv:2001.08361, table 1) and, for causal attention, half of the
        12 * layers * hidden * seq_len of arXiv:2204.02311, appendix B. The embedding lookup is
        no matmul; the output projection is one, tied or not.
        """
        biases = (self.hidden + 2 * self.kv_heads * self.head_dim) * self.attention_bias
        block = self.block_parameters - 2 * self.hidden - biases
        matmul = self.layers * block + self.vocab * self.hidden
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
    """Share that is held out for validation."""
    held_out: Literal["end", "documents"] = "end"
    """What is held out: the `end` of the tokens, or whole `documents` (files of the corpus), one
    after so many that are trained on. The end of a corpus may be unlike the rest of it."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.shards) == (self.corpus is not None):
            raise ValueError("give either corpus or shards")
        if self.shards and self.held_out == "documents":
            raise ValueError("shards do not tell where a document ends; held_out is their end")
        return self

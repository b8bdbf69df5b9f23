"""Small checkpoints as `transformers` and llama.cpp write them, made for one test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
TOKENS = torch.tensor([[1, 7, 299, 0, 42, 42, 13, 5, 100, 250]])


def saved(folder: Path, family: str, tied: bool, shard: str = "1GB", **said: Any) -> Tensor:
    """A random model of `transformers`, saved as it saves; its logits for TOKENS."""
    transformers = pytest.importorskip("transformers")
    kind = {"llama": "Llama", "qwen2": "Qwen2"}[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **SHAPE, tie_word_embeddings=tied, rms_norm_eps=1e-5, initializer_range=0.1, **said
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                parameter.normal_(0.5, 0.3)
        logits: Tensor = model(TOKENS).logits
    model.save_pretrained(folder, max_shard_size=shard)
    return logits


def gguf_of(folder: Path, source: Path, family: str, kind: str, **said: Any) -> None:
    """The checkpoint as llama.cpp converts it: pairs of a Llama's q and k lie interleaved."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(folder, family)
    facts = {"context_length": 64, "embedding_length": 64, "block_count": 2,
             "feed_forward_length": 96, "head_count": 4, "head_count_kv": 2} | said  # fmt: skip
    for name, value in facts.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    quant = gguf.GGMLQuantizationType[kind]
    names = {"embed_tokens": "token_embd", "lm_head": "output", "q_proj": "attn_q",
             "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
             "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for name, tensor in load_file(source / "model.safetensors").items():
        parts = name.split(".")
        block = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        own = "output_norm" if name == "model.norm.weight" else names[parts[-2]]
        values = tensor.float().numpy()
        if family == "llama" and parts[-2] in {"q_proj", "k_proj"}:
            heads = 4 if parts[-2] == "q_proj" else 2
            paired = values.reshape(heads, 2, -1, values.shape[1])
            values = paired.swapaxes(1, 2).reshape(values.shape)
        if values.ndim == 1:
            writer.add_tensor(f"{block}{own}.{parts[-1]}", values)
        else:
            data = gguf.quantize(np.ascontiguousarray(values), quant)
            writer.add_tensor(f"{block}{own}.{parts[-1]}", data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

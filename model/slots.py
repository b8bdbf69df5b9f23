"""The places of a forward pass that a trace tells of, in the order a pass reaches them."""

from __future__ import annotations

BLOCK_SLOTS = ("attn_norm", "q", "k", "v", "q_rope", "k_rope", "attn_out", "attn_proj",
               "residual_mid", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl",
               "ffn_out", "residual_out")  # fmt: skip
"""Slots of a block."""

FINAL_SLOTS = ("final_norm", "logits")
"""Slots after the last block, with layer -1."""

SLOTS = BLOCK_SLOTS + FINAL_SLOTS

GRADIENT = "grad "
"""Begins the name of a parameter's gradient, which a backward pass tells after them."""

"""What a forward run may be asked beyond its trace: a reference, and generation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from pytest_gates.model.settings import Count, Index, NotNegative, Settings


class Against(Settings):
    """The reference: the same prompt through a float64 implementation of its own."""

    weights: StrictStr | None = None
    """Weights of the reference; left out: the run's own parameters, as they were built."""
    tokenizer: StrictStr | None = None
    """Tokenizer of the reference; left out: the one beside its weights, else the run's own."""
    backward: StrictBool = False
    """Whether the gradients of the prompt's loss are compared too."""


class Decode(Settings):
    """Generation: `repeat` times the same, each reported as one step."""

    tokens: Count = 32
    """Tokens to generate each time."""
    repeat: Count = 1
    """Times it is done; step 0 holds the warm-up."""
    temperature: NotNegative = 0.0
    """0 takes the likeliest token; above, tokens are drawn from the softmax of logits / it."""
    top_k: Index = 0
    """Tokens are drawn from the k likeliest; 0: from all."""
    prefill: Annotated[StrictInt, Field(ge=0)] = 0
    """Repeat the prompt's tokens to this length; 0: the prompt as it is."""
    graph: Literal["auto", "off"] = "auto"
    """`auto`: on CUDA the step is captured into a graph."""

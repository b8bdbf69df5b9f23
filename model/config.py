"""What a run is: architecture, data, optimizer and settings, as frozen typed models without torch.

The same models are the YAML form of ``runs:`` in a contract and the ``run.json`` that a run's
process reads, so a field is defined once.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from pytest_gates.model.device import DEVICE_GRAMMAR
from pytest_gates.model.misfit import MisfitError

# Integers stay below 2^53, where JSON keeps them exact: a run's hash stands on its JSON.
Count = Annotated[StrictInt, Field(ge=1, lt=2**53)]
Index = Annotated[StrictInt, Field(ge=0, lt=2**53)]
Positive = Annotated[StrictFloat | StrictInt, Field(gt=0, lt=2**53, allow_inf_nan=False)]
Fraction = Annotated[StrictFloat, Field(gt=0, lt=1, allow_inf_nan=False)]
NotNegative = Annotated[StrictFloat | StrictInt, Field(ge=0, lt=2**53, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of every declared thing: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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


class Optimizer(Settings):
    """AdamW (arXiv:1711.05101) under linear warm-up and cosine decay (arXiv:1608.03983)."""

    lr: Positive = 1e-3
    """Peak learning rate."""
    min_lr_ratio: NotNegative = 0.1
    """Final learning rate as a share of the peak."""
    warmup_steps: Index = 10
    """Steps of linear warm-up."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.1
    """Applied to matrices only, never to norms."""
    clip: Positive = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it."""


class Host(Settings):
    """What the run's process may see of the machine."""

    cuda: Literal["any", "hidden", "visible"] = "any"
    """`hidden` hides every CUDA device from the process; `visible` needs at least one."""


class Kill(Settings):
    """Stimulus: the process gets SIGKILL when `step` has been launched."""

    kind: Literal["kill"]
    step: Index


class NonFinite(Settings):
    """Stimulus: the loss of `step` becomes NaN before the backward pass."""

    kind: Literal["nan"]
    step: Index


Stimulus = Annotated[Kill | NonFinite, Field(discriminator="kind")]


class Causality(Settings):
    """Property: tokens after position j never change the logits up to j."""

    name: Literal["causality"]
    examples: Count = 20
    """Sequences that are tried."""
    length: Annotated[StrictInt, Field(ge=2)] = 24
    """Longest sequence, in tokens."""
    atol: NotNegative = 0.0
    """Largest difference of a logit that still counts as unchanged."""


class DeviceGrammarProperty(Settings):
    """Property: the device parser accepts exactly `cpu|cuda(:[0-9]|:1[0-5])?|auto`."""

    name: Literal["device_grammar"]
    examples: Count = 500
    """Strings that are tried in each direction."""


DeviceName = Annotated[StrictStr, Field(pattern=DEVICE_GRAMMAR)]
ModelName = StrictStr | Architecture


class _Executed(Settings):
    """What every run of the program itself declares."""

    host: Host = Host()
    """Conditions of the machine."""
    timeout_s: Positive | None = None
    """Seconds after which the run is ended with status TIMEOUT."""


class _Modelled(_Executed):
    device: DeviceName
    """`cpu`, `cuda`, `cuda:0` to `cuda:15`, or `auto`."""
    model: ModelName
    """A preset's name, or an architecture block."""
    seed: Index = 0
    """Seed of every random generator of the run."""
    threads: Annotated[StrictInt, Field(ge=1, le=256)] = 1
    """CPU threads of torch."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 matmuls over fp32 masters on CUDA, fp32 on the CPU."""
    deterministic: StrictBool = False
    """Only deterministic kernels, at some cost in speed."""

    @model_validator(mode="after")
    def _known_model(self) -> Self:
        if isinstance(self.model, str) and self.model not in PRESETS:
            raise ValueError(f"unknown model {self.model!r}; presets are {', '.join(PRESETS)}")
        return self

    @property
    def architecture(self) -> Architecture:
        """The architecture itself, a preset resolved."""
        return PRESETS[self.model] if isinstance(self.model, str) else self.model


class PretrainRun(_Modelled):
    """A training run of the built-in trainer."""

    driver: Literal["pretrain"]
    data: Data
    """What it trains on."""
    seq_len: Count
    """Tokens a sequence."""
    batch_size: Count
    """Sequences a step."""
    steps: Count
    """Optimizer steps."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and schedule."""
    validate_every: Index = 0
    """Steps between validations; 0 validates once, at the end."""
    validation_batches: Index = 4
    """Batches a validation reads; 0 switches validation off."""
    stimulus: Stimulus | None = None
    """A condition that the claim itself is about."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.data.shards:
            ids = tokenizer_vocab(self.data.tokenizer)
            if ids > self.architecture.vocab:
                raise MisfitError(
                    f"tokenizer {self.data.tokenizer} has {ids} ids, "
                    f"the model's vocabulary only {self.architecture.vocab}",
                    "data", "tokenizer",
                )  # fmt: skip
        if self.optimizer.warmup_steps > self.steps:
            raise MisfitError(
                f"warm-up of {self.optimizer.warmup_steps} steps is longer than "
                f"the run of {self.steps}; shorten `optimizer: {{warmup_steps: ...}}`",
                "steps",
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens one optimizer step reads."""
        return self.batch_size * self.seq_len

    @property
    def step_flops(self) -> int:
        """Fewest floating-point operations of one step."""
        return self.tokens_per_step * self.architecture.flops_per_token(self.seq_len)

    @property
    def census_bytes(self) -> int:
        """Fewest bytes the declared state needs on the device for the whole run."""
        return self.architecture.training_bytes


class ForwardRun(_Modelled):
    """One forward pass over a prompt, traced layer by layer, and properties of the path."""

    driver: Literal["forward"]
    prompt: Annotated[StrictStr, Field(min_length=1, max_length=100_000)] = "def main():\n"
    """Text that is fed, tokenised by bytes."""
    properties: tuple[Causality, ...] = ()
    """Properties to search for a counterexample."""

    @model_validator(mode="after")
    def _bytes_fit(self) -> Self:
        if self.architecture.vocab < BYTES_VOCAB:
            raise ValueError(
                f"a prompt of bytes needs a vocabulary of {BYTES_VOCAB}, "
                f"the model has {self.architecture.vocab}"
            )
        return self


class ProbeRun(_Executed):
    """No model at all: what the machine offers, and properties of the program's own rules."""

    driver: Literal["probe"]
    properties: tuple[DeviceGrammarProperty, ...] = ()
    """Properties to search for a counterexample."""


class RecordedFile(Settings):
    """A file that exists already, and how to read it."""

    path: StrictStr
    """Relative to the project's root, inside it, no symbolic link on the way."""
    format: Literal["jsonl", "json", "nvidia-smi-csv"]
    """`jsonl`: a step a line. `json`: `per_step_metrics`, log lines before it allowed.
    `nvidia-smi-csv`: samples as nvidia-smi prints them."""


class DeclaredHost(Settings):
    """The machine a recording is said to come from."""

    gpu: StrictStr | None = None
    driver: StrictStr | None = None
    torch: StrictStr | None = None


class Declared(Settings):
    """The configuration a recording is said to come from. Reports call it DECLARED."""

    model: ModelName | None = None
    device: DeviceName | None = None
    seq_len: Count | None = None
    batch_size: Count | None = None
    steps: Count | None = None
    seed: Index | None = None
    dtype: StrictStr | None = None
    pid: Index | None = None
    """Process id of the run, to be found among the samples."""
    host: DeclaredHost = DeclaredHost()


class RecordedRun(Settings):
    """Files of a run that somebody made already. It never discharges more than PARTIAL."""

    driver: Literal["recorded"]
    files: Annotated[tuple[RecordedFile, ...], Field(min_length=1)]
    """What to read; one of them tells the steps."""
    declares: Declared = Declared()
    """What the files do not say of themselves."""

    @model_validator(mode="after")
    def _known_model(self) -> Self:
        model = self.declares.model
        if isinstance(model, str) and model not in PRESETS:
            raise ValueError(f"unknown model {model!r}; presets are {', '.join(PRESETS)}")
        return self


ExecutedRun = Annotated[PretrainRun | ForwardRun | ProbeRun, Field(discriminator="driver")]
"""A run that the program executes in a process of its own."""

Run = Annotated[PretrainRun | ForwardRun | ProbeRun | RecordedRun, Field(discriminator="driver")]
"""Every run a contract can declare."""


class Request(Settings):
    """`run.json`: everything a run's process is told."""

    format: Literal[1] = 1
    run: ExecutedRun
    fault: dict[str, object] | None = None
    """The injected fault, resolved before anything is built; see `faults`."""
    repetition: Index = 0
    allocations_mib: tuple[Count, ...] = ()
    """Sizes to allocate on the device one after the other, for the witness to see (layer L3b)."""
    control: StrictStr | None = None
    """Folder through which the process outside acknowledges and holds."""
    root: StrictStr
    """The project's root, for shard paths."""
    cache: StrictStr
    """Folder for tokenised corpora."""

"""Properties as a run declares them: what is searched for a counterexample, and how far.

`properties` has the searches themselves.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from pytest_gates.model.settings import Count, NotNegative, Settings


class Causality(Settings):
    """Property: tokens after position j never change the logits up to j."""

    name: Literal["causality"]
    examples: Count = 20
    """Sequences that are tried."""
    length: Annotated[StrictInt, Field(ge=2)] = 24
    """Longest sequence, in tokens."""
    atol: NotNegative = 0.0
    """Largest difference of a logit that still counts as unchanged."""


class ReferenceProperty(Settings):
    """Property: logits equal those of the model written a second time, plainly."""

    name: Literal["reference"]
    examples: Count = 10
    """Sequences that are tried."""
    length: Annotated[StrictInt, Field(ge=1)] = 16
    """Longest sequence, in tokens."""
    atol: NotNegative = 1e-3
    """Largest difference of a logit."""


class BatchInvariance(Settings):
    """Property: what a sequence's logits are does not depend on what else is in its batch."""

    name: Literal["batch_invariance"]
    examples: Count = 10
    """Pairs of sequences that are tried."""
    length: Annotated[StrictInt, Field(ge=1)] = 16
    """Longest sequence, in tokens."""
    atol: NotNegative = 1e-4
    """Largest difference of a logit: a batch may be summed in another order."""


class RopeRelative(Settings):
    """Property: products of rotated vectors depend on the distance of their positions alone."""

    name: Literal["rope_relative"]
    examples: Count = 50
    """Pairs of positions that are tried."""
    length: Annotated[StrictInt, Field(ge=2)] = 512
    """Positions."""
    atol: NotNegative = 1e-3
    """Largest difference of a product of unit vectors."""


class UniformLoss(Settings):
    """Property: the loss of uniform logits is ln(vocabulary)."""

    name: Literal["uniform_loss"]
    examples: Count = 20
    """Sequences that are tried."""
    atol: NotNegative = 1e-5
    """Largest difference in nats."""


class _OfAPath(Settings):
    examples: Count = 10
    """Cases that are tried."""
    length: Annotated[StrictInt, Field(ge=2)] = 16
    """Longest sequence, in tokens."""
    atol: NotNegative = 1e-4
    """Largest difference of a logit: the kernels see other shapes."""


class DecodeEqualsPrefill(_OfAPath):
    """Property: tokens fed in parts through the KV cache give the logits of one pass."""

    name: Literal["decode_equals_prefill"]


class PositionShift(_OfAPath):
    """Property: the logits do not change when all positions shift (arXiv:2104.09864)."""

    name: Literal["position_shift"]
    shift: Count = 100
    """Largest shift of all positions."""


class Padding(_OfAPath):
    """Property: padding on either side, masked, does not change the logits of real tokens."""

    name: Literal["padding"]


class ScheduleForm(Settings):
    """Property: the learning rate follows its closed form, warm-up and cosine."""

    name: Literal["schedule"]
    examples: Count = 200
    """Schedules that are tried."""


class DeviceGrammarProperty(Settings):
    """Property: the device parser accepts exactly `cpu|cuda(:[0-9]|:1[0-5])?|auto`."""

    name: Literal["device_grammar"]
    examples: Count = 500
    """Strings that are tried in each direction."""


class BudgetRule(Settings):
    """Property: a budget decides as the tails of the binomial distribution say, summed plainly."""

    name: Literal["budget_rule"]
    examples: Count = 200
    """Counts, sizes, quantiles and confidences that are tried."""
    samples: Annotated[StrictInt, Field(ge=1, le=2000)] = 120
    """Most samples of a window."""


class WriteBack(Settings):
    """Property: write-back changes a verdict, its basis and the version, and no other byte."""

    name: Literal["write_back"]
    examples: Count = 60
    """Contracts that are generated."""


ModelProperty = Annotated[
    Causality
    | ReferenceProperty
    | BatchInvariance
    | RopeRelative
    | UniformLoss
    | DecodeEqualsPrefill
    | PositionShift
    | Padding,
    Field(discriminator="name"),
]
"""Any property of a model."""
RuleProperty = Annotated[
    DeviceGrammarProperty | ScheduleForm | BudgetRule | WriteBack, Field(discriminator="name")
]
"""Any property of the program's own rules that a probe searches."""

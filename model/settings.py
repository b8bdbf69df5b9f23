"""What declared things are made of: a frozen, closed model, and numbers that JSON keeps exact."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

# Integers stay below 2^53, where JSON keeps them exact: a run's hash stands on its JSON.
Count = Annotated[StrictInt, Field(ge=1, lt=2**53)]
Index = Annotated[StrictInt, Field(ge=0, lt=2**53)]
Positive = Annotated[StrictFloat | StrictInt, Field(gt=0, lt=2**53, allow_inf_nan=False)]
Fraction = Annotated[StrictFloat, Field(gt=0, lt=1, allow_inf_nan=False)]
NotNegative = Annotated[StrictFloat | StrictInt, Field(ge=0, lt=2**53, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of every declared thing: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

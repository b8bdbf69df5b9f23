"""The published JSON Schemas, generated from the models that load and judge.

`contract.schema.json` completes and checks contracts in editors; `telemetry.schema.json` is for
programs that emit telemetry of their own. `make schema` writes both, and a test keeps them in step.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parent
CONTRACT = FOLDER / "contract.schema.json"
TELEMETRY = FOLDER / "telemetry.schema.json"


def published() -> dict[str, object]:
    """The published schema of a contract."""
    schema: dict[str, object] = json.loads(CONTRACT.read_text(encoding="utf-8"))
    return schema

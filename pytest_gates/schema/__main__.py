"""Write the published schemas: `python -m pytest_gates.schema`."""

from __future__ import annotations

import json

from pytest_gates.schema import CONTRACT, TELEMETRY
from pytest_gates.schema.contract import contract_schema
from pytest_gates.schema.telemetry import telemetry_schema


def main() -> None:
    """Write every schema next to this file."""
    for path, schema in ((CONTRACT, contract_schema()), (TELEMETRY, telemetry_schema())):
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

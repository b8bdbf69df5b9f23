"""The fault catalogue as a table, generated from the faults themselves."""

from __future__ import annotations

from pytest_gates.model.faults import FAMILIES

HEAD = """# Faults

How a gate is seen red: `inject: {fault: name, ...}` in a falsifier, or every one of them by
`pytest-gates mutate contracts/`. Faults of a run take effect through the public seams in
`model/seams.py`, in a process of their own; planted evidence acts on copies in a scratch folder.

Written by `make schema` from the code; a test keeps it in step.
"""


def catalogue() -> str:
    """The page: a table a family."""
    parts = [HEAD]
    for family, forms in FAMILIES.items():
        parts += [
            f"\n## {family.capitalize()}\n",
            "| fault | what it does | incident | seen by | fits |",
            "|---|---|---|---|---|",
        ]
        for form in forms:
            name = form.model_fields["fault"].annotation.__args__[0]  # type: ignore[union-attr]  # a Literal
            settings = [key for key in form.model_fields if key != "fault"]
            told = f"`{name}`" + (f" ({', '.join(settings)})" if settings else "")
            seen = ", ".join(f"`{check}`" for check in form.checks)
            parts.append(f"| {told} | {form.meaning} | {form.incident} | {seen} | {form.fits} |")
    return "\n".join(parts) + "\n"

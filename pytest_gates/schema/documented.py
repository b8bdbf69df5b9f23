"""JSON Schema with the docstrings of attributes as descriptions.

They are read here, where a schema is made, and not when a model is: to find them means to parse
the source of every model, a third of a second at each start of a program that never shows them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue


class Documented(GenerateJsonSchema):
    """Pydantic's schema of a model; a description that a field gives itself wins."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """Add what stands below each field in its model's source."""
        made = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        texts = attribute_docstrings(model)
        for name, field in model.model_fields.items():
            described = made.get("properties", {}).get(field.alias or name)
            if described is not None and field.description is None and name in texts:
                described["description"] = texts[name]
        return made


def attribute_docstrings(model: type) -> dict[str, str]:
    """The docstring of each attribute of a class, those that it inherits among them."""
    found: dict[str, str | None] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _own_docstrings(base)
    return {name: text for name, text in found.items() if text is not None}


@cache
def _own_docstrings(model: type) -> dict[str, str | None]:
    """By attribute that the class itself declares; None: declared anew without a word."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except OSError:  # made by `create_model`: it has no source, and says its descriptions itself
        return {}
    declared = ast.parse(source).body[0]
    assert isinstance(declared, ast.ClassDef)
    found: dict[str, str | None] = {}
    for statement, following in zip_longest(declared.body, declared.body[1:]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = _text(following)
    return found


def _text(statement: ast.stmt | None) -> str | None:
    """A statement's text, if it is nothing but one."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    said = value.value if isinstance(value, ast.Constant) else None
    return inspect.cleandoc(said) if isinstance(said, str) else None

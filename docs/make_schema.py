"""Writes ``audit-schema.json``, the JSON Schema of ``audit.json``, from the types."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearn import types
from unlearn.types import AuditResult

PAGE = Path(__file__).with_name("audit-schema.json")
NUMBER = "Number"
"""The name under which a number is defined that may lie outside what JSON has."""


def schema() -> dict[str, Any]:
    """The whole schema, of what ``audit.json`` holds when this version has written it."""
    found = AuditResult.model_json_schema(mode="serialization")
    described(found)
    body: dict[str, Any] = with_numbers(found)
    body["$defs"][NUMBER] = {
        "description": "A number, or its name where JSON has none for it.",
        "anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}],
    }
    version = types.AuditResult.model_fields["schema_version"].default
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:unlearn:audit:{version}",
        "title": "Unlearning audit",
        "description": f"What `unlearn audit` writes as audit.json, schema_version {version}.",
    }
    return {**head, **{name: part for name, part in body.items() if name not in head}}


def described(found: dict[str, Any]) -> None:
    """Gives each field the words that stand below it in the source."""
    words = dict(attribute_docstrings(inspect.getsource(types)))
    for noun, part in [("AuditResult", found), *found["$defs"].items()]:
        for field, body in part.get("properties", {}).items():
            if text := words.get((noun, field)):
                body["description"] = text


def attribute_docstrings(source: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Class and field to the string that follows the field."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(below, ast.Expr)
                    and isinstance(below.value, ast.Constant)
                ):
                    text = inspect.cleandoc(str(below.value.value))
                    yield (node.name, field.target.id), " ".join(text.split())


def with_numbers(part: Any) -> Any:
    """The schema with a reference to ``NUMBER`` in place of every plain number."""
    if isinstance(part, list):
        return [with_numbers(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "number":
        rest = {name: value for name, value in part.items() if name != "type"}
        return {**rest, "$ref": f"#/$defs/{NUMBER}"}
    return {name: with_numbers(value) for name, value in part.items()}


def page() -> str:
    """The schema as the file holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

#!/usr/bin/env python3
"""Prints the two schemas as one OpenAPI 3.1 document without paths, for generators that read nothing else.

    python3 schemas/as-openapi.py > cancel-worker.openapi.json
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LEFT_OUT = {"$schema", "$id", "$comment", "$defs"}


def moved(node: Any, names: dict[str, str]) -> Any:
    """The same with every definition where OpenAPI keeps them."""
    if isinstance(node, list):
        return [moved(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: f"#/components/schemas/{names[value.split('/')[-1]]}" if key == "$ref" else moved(value, names)
        for key, value in node.items()
        if key not in LEFT_OUT
    }


def with_mapping(union: dict[str, Any], schemas: dict[str, Any]) -> None:
    """OpenAPI finds the value of a discriminator by the name of the schema, unless it is told."""
    tag = union["discriminator"]["propertyName"]
    references = [part["$ref"] for part in union["oneOf"] if "$ref" in part]
    constants = [schemas[reference.split("/")[-1]]["properties"][tag]["const"] for reference in references]
    union["discriminator"]["mapping"] = dict(zip(constants, references))


def document() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    files = [json.loads((HERE / file).read_text(encoding="utf-8")) for file in ("cancel-intent.v1.json", "cancel-outcome.v1.json")]
    shared = set.intersection(*(set(file["$defs"]) for file in files))
    for file in files:
        # Both have a uuid, a timestamp and so on, and those of the outcome are narrower.
        prefix = file["title"].removeprefix("Cancel")
        names = {name: (prefix if name in shared else "") + name[0].upper() + name[1:] for name in file["$defs"]}
        schemas |= {names[name]: moved(part, names) for name, part in file["$defs"].items()}
        schemas[file["title"]] = moved(file, names)
    for schema in schemas.values():
        if "discriminator" in schema:
            with_mapping(schema, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "cancel-worker: intents and outcomes", "version": "1"},
        "paths": {},
        "components": {"schemas": schemas},
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2, ensure_ascii=False)
    print()

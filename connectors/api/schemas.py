"""The bodies that the API accepts, as JSON schemas: requests match them, and OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Final

from aggregation.formats import FORMATS
from connectors.api.problems import invalid
from connectors.storage.multipart import MAX_PARTS, MIN_PART_BYTES
from models_app.schemas import SchemaError, compile_schema

Schema = dict[str, Any]

_HASH: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9a-f]{64}$",
    "description": "SHA-256 of the client's secret, in hexadecimal digits.",
}
_CHECKSUM: Final[Schema] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9+/]{43}=$",
    "description": "SHA-256 of the part, in base64.",
}

#: No id or count has more digits: they become parts of keys, and metadata.
_MAX_INTEGER: Final = 10**18 - 1

_COUNT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": _MAX_INTEGER}

ENROLL: Final[Schema] = {
    "type": "object",
    "properties": {
        "token": {"type": "string", "minLength": 1, "maxLength": 200},
        "name": {"type": "string", "maxLength": 100, "default": ""},
        "secret_hash": _HASH,
    },
    "required": ["token", "secret_hash"],
    "additionalProperties": False,
}

SECRET: Final[Schema] = {
    "type": "object",
    "properties": {"secret_hash": _HASH},
    "required": ["secret_hash"],
    "additionalProperties": False,
}

UPDATE: Final[Schema] = {
    "type": "object",
    "properties": {
        "size": {**_COUNT, "description": "Bytes of the object."},
        "format": {"type": "string", "enum": sorted(FORMATS)},
        "num_examples": _COUNT,
        "num_steps": _COUNT,
        "base_aggregate": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": _MAX_INTEGER,
            "description": "Id of the aggregate it was trained from; null for the initial model.",
        },
        "update_kind": {"type": "string", "enum": ["weights", "differences"]},
        "part_bytes": {
            "type": "integer",
            "minimum": MIN_PART_BYTES,
            "maximum": 5 << 30,
            "description": "Bytes of every part but the last.",
        },
        "parts": {"type": "array", "items": _CHECKSUM, "minItems": 1, "maxItems": MAX_PARTS},
    },
    "required": ["size", "format", "num_examples", "part_bytes", "parts"],
    "additionalProperties": False,
}

PARTS: Final[Schema] = {
    "type": "object",
    "properties": {
        "parts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "number": {"type": "integer", "minimum": 1, "maximum": MAX_PARTS},
                    "checksum": _CHECKSUM,
                },
                "required": ["number", "checksum"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": 100,
        }
    },
    "required": ["parts"],
    "additionalProperties": False,
}

SCORES: Final[Schema] = {
    "type": "object",
    "properties": {
        "aggregate": _COUNT,
        "num_examples": _COUNT,
        "results": {
            "type": "object",
            "description": "What was measured, such as accuracy and loss; may be nested. The model's "
            "score_metric is the name of a number in it.",
        },
    },
    "required": ["aggregate", "num_examples", "results"],
    "additionalProperties": False,
}


def validated(body: Any, schema: Schema) -> dict[str, Any]:
    """Return the body of a request that matches its schema.

    Raises
    ------
    Problem
        400, with the member that does not match.
    """
    check = compile_schema(schema)
    try:
        if check:
            check(body)
    except SchemaError as error:
        raise invalid(str(error).replace("data", "body", 1)) from error
    return dict(_with_integers(body, schema))


def _with_integers(value: Any, schema: Schema) -> Any:
    """Return a valid value whose integers are such: JSON Schema takes 10.0 for an integer, too."""
    if isinstance(value, float) and "integer" in schema.get("type", ()):
        return int(value)
    if isinstance(value, dict):
        members = schema.get("properties", {})
        return {name: _with_integers(each, members.get(name, {})) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_integers(each, schema.get("items", {})) for each in value]
    return value

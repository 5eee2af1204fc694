"""Compile the JSON schemas that a model's developer writes, to validate clients' documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

Check = Callable[[Any], None]


class SchemaError(ValueError):
    """A schema is invalid, or a document does not match it; the message says where."""


def compile_schema(schema: Any) -> Check | None:
    """Return a function that raises `SchemaError` for an invalid document; None without a schema.

    Raises
    ------
    SchemaError
        If it is not a JSON schema (draft 4, 6 or 7), or refers to a document elsewhere.
    """
    return None if schema is None else _compile(json.dumps(schema))


@lru_cache(maxsize=64)
def _compile(text: str) -> Check:
    import fastjsonschema  # Only models that have a schema pay for the import.

    schema = json.loads(text)
    if not isinstance(schema, dict):
        raise SchemaError("expected a JSON schema, which is an object")
    try:
        check = fastjsonschema.compile(schema, handlers=_NoDownloads(), use_default=False)
    except Exception as error:  # The compiler raises TypeError or IndexError for some mistakes.
        raise SchemaError(f"not a JSON schema: {error}") from error

    def checked(document: Any) -> None:
        try:
            check(document)
        except (fastjsonschema.JsonSchemaValueException, RecursionError) as error:
            raise SchemaError(str(error)) from error

    return checked


class _NoDownloads(dict[str, Any]):
    """Replaces the compiler's downloads: a schema that refers to other documents is refused."""

    def __contains__(self, scheme: object) -> bool:
        return True

    def __missing__(self, scheme: str) -> Callable[[str], NoReturn]:
        def refuse(uri: str) -> NoReturn:
            raise SchemaError(f"it refers to {uri}, which is not part of it")

        return refuse

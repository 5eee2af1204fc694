"""JSON schemas that a model's developer writes, and that clients' documents are held to."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

Check = Callable[[Any], None]


class SchemaError(ValueError):
    """A schema is none, or a document does not fit it; the message says where."""


def compiled(schema: Any) -> Check | None:
    """A schema as a function that raises `SchemaError`; None where there is no schema.

    Raises
    ------
    SchemaError
        If it is no JSON schema (draft 4, 6 or 7), or refers to a document elsewhere.
    """
    return None if schema is None else _compiled(json.dumps(schema))


@lru_cache(maxsize=64)
def _compiled(text: str) -> Check:
    import fastjsonschema  # Only models that have a schema pay for the import.

    schema = json.loads(text)
    if not isinstance(schema, dict):
        raise SchemaError("expected a JSON schema, which is an object")
    try:
        check = fastjsonschema.compile(schema, handlers=_Nowhere(), use_default=False)
    except (
        Exception
    ) as error:  # The compiler meets some mistakes with a TypeError or an IndexError.
        raise SchemaError(f"not a JSON schema: {error}") from error

    def checked(document: Any) -> None:
        try:
            check(document)
        except (fastjsonschema.JsonSchemaValueException, RecursionError) as error:
            raise SchemaError(str(error)) from error

    return checked


class _Nowhere(dict[str, Any]):
    """Takes the place of the compiler's downloads: a schema is whole, or it is refused."""

    def __contains__(self, scheme: object) -> bool:
        return True

    def __missing__(self, scheme: str) -> Callable[[str], NoReturn]:
        def refuse(uri: str) -> NoReturn:
            raise SchemaError(f"it refers to {uri}, which is not part of it")

        return refuse

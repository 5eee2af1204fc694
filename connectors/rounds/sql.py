"""Send many values in one statement as a single JSON parameter, instead of one parameter each.

PostgreSQL allows 65,535 parameters and SQLite 250,000, and both plan long lists slowly; a round may have
any number of updates and makes the same statements for all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connection
from django.db.models import Func, Value
from django.db.models.expressions import RawSQL
from django.db.models.fields import FloatField, TextField
from django.db.models.functions import Cast, Concat

from aggregation.round import RoundResult


def ids_in(ids: Iterable[int]) -> RawSQL:
    """Return the ids as a subquery, for a lookup such as ``pk__in``."""
    if connection.vendor == "postgresql":
        sql = "SELECT jsonb_array_elements_text(%s::jsonb)::bigint"
    else:
        sql = "SELECT value FROM json_each(%s)"
    return RawSQL(sql, [json.dumps(list(ids))])  # noqa: S611 - the ids are a parameter


class ValueById(Func):
    """Looks up each row's primary key in a mapping; the value is text, or NULL for other rows.

    Parameters
    ----------
    values : mapping
        Numbers or texts by primary keys.
    """

    output_field = TextField()

    def __init__(self, values: Mapping[int, float | str]) -> None:
        key = Cast("pk", TextField())
        super().__init__(Value(json.dumps(values)), key)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Compile to ``(document ->> key)``."""
        return self.as_sql(
            compiler, connection, template="(%(expressions)s)", arg_joiner="::jsonb ->> ", **context
        )

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Compile to ``JSON_EXTRACT(document, path)``."""
        document, key = self.get_source_expressions()
        path = Concat(Value('$."'), key, Value('"'), output_field=TextField())
        copy = self.copy()
        copy.set_source_expressions([document, path])
        return Func.as_sql(copy, compiler, connection, function="JSON_EXTRACT", **context)


def norms_of(result: RoundResult) -> Cast | Value:
    """Return the norm of each update that was used, where norms were measured."""
    return _numbers_of(result, result.combined.norms)


def cosines_of(result: RoundResult) -> Cast | Value:
    """Return the cosine of each update that was used, where inner products were measured."""
    return _numbers_of(result, result.combined.selection.cosines)


def scaling_factors_of(result: RoundResult) -> Cast | Value:
    """Return the share of each update that was used in the aggregate."""
    return _numbers_of(result, result.combined.selection.scaling_factors(len(result.used)))


def _numbers_of(result: RoundResult, numbers: Sequence[float | None] | None) -> Cast | Value:
    if not numbers:
        return Value(None, output_field=FloatField())
    known = {
        pk: number
        for pk, number in zip(result.used, numbers, strict=True)
        if number is not None and math.isfinite(number)
    }
    return Cast(ValueById(known), FloatField())

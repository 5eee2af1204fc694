"""The content of a score: parsed from a client's bytes and checked against its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from aggregation.errors import UpdateRejected, quoted
from aggregation.scores import is_score
from connectors.intake.metadata import misspelt_name
from connectors.intake.strict_json import parse_strict_json
from models_app.models import FederatedModel
from models_app.schemas import SchemaError, compile_schema


def parse_results(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a client's bytes, with unique names and no number above `MAX_VALUE`.

    Raises
    ------
    UpdateRejected
    """
    try:
        results = parse_strict_json(body)
    except ValueError as error:
        raise UpdateRejected(f"not the JSON of a score: {quoted(error)}") from error
    if not isinstance(results, dict):
        raise UpdateRejected(f"expected a JSON object, got {quoted(results)}")
    return results


def check_results(results: Mapping[str, Any], model: FederatedModel) -> None:
    """Check a score against its model: number of examples, schema and metric.

    Raises
    ------
    UpdateRejected
    """
    check_examples(results)
    check = compile_schema(model.client_agg_results_schema)
    if check:
        try:
            check(results)
        except SchemaError as error:
            raise UpdateRejected(f"against the model's schema: {quoted(error)}") from error
    if not model.score_metric:
        return
    value: Any = results.get(model.score_metric)
    if not is_score(value):
        raise UpdateRejected(f"{quoted(model.score_metric)} is {quoted(value)}, expected a number")


def check_examples(results: Mapping[str, Any]) -> None:
    """Check the number of examples of a score, and that no other name was meant to state it.

    Raises
    ------
    UpdateRejected
    """
    for name in results:
        if misspelt_name(name, ["num_examples"]):
            raise UpdateRejected(
                f"{quoted(name)} is not defined: 'num_examples' was probably meant"
            )
    count = results.get("num_examples", 1)
    if type(count) is not int or not 1 <= count <= settings.MAX_NUM_EXAMPLES:
        raise UpdateRejected(
            f"num_examples is {quoted(count)}, expected a whole number from 1 to "
            f"{settings.MAX_NUM_EXAMPLES}"
        )

"""The OpenAPI document of the API for clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import validate

from local.reference import FOLDER
from local.reference.api import ANSWERS, PROBLEM
from models_app.schemas import compile_schema
from tests.connectors.api.api_tools import call, description, enrolled
from tests.factories import filled, make_model

DOCUMENT = json.loads((FOLDER / "reference" / "openapi.json").read_text())


def matches(schema: dict[str, Any], document: Any) -> None:
    check = compile_schema(schema)
    assert check
    check(document)


def test_the_document_is_valid() -> None:
    """It is OpenAPI 3.1."""
    assert DOCUMENT["openapi"].startswith("3.1")
    validate(DOCUMENT)


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_answers_are_as_described() -> None:
    """What the function answers matches the schemas of the document."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)

    def check(operation: str, answer: Any) -> Any:
        assert answer.status == 200, answer
        matches(ANSWERS[operation], answer.body)
        return answer.body

    base = f"/v1/models/{model.pk}"
    check("getModel", known.call("GET", base))
    body = description(b"0123456789")
    begun = check(
        "beginUpdate", known.call("POST", f"{base}/updates", body, Idempotency_Key="12345678")
    )
    update = f"{base}/updates/{begun['update']}"
    parts = {"parts": [{"number": 1, "checksum": body["parts"][0]}]}
    check("signParts", known.call("POST", f"{update}/parts", parts))
    scores = {"aggregate": 1, "num_examples": 1, "results": {"accuracy": 0.5}}
    check("reportScore", known.call("POST", f"{base}/scores", scores))
    matches(PROBLEM, known.call("GET", update).body)
    matches(PROBLEM, call("GET", base).body)

"""Schemathesis generates requests from the OpenAPI document; none is answered with a server error."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from connectors import application
from connectors.publication.pointer import write_pointer
from connectors.publication.progress import write_progress
from local.api_front import request_event
from local.reference import FOLDER
from tests.connectors.api.api_tools import Enrolled, description, enrolled, put_part
from tests.factories import filled, make_model
from tests.test_lambda_handler import Context

pytestmark = [
    pytest.mark.usefixtures("database", "cloud"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

SCHEMA = schemathesis.openapi.from_dict(
    json.loads((FOLDER / "reference" / "openapi.json").read_text())
)
OPERATIONS: dict[str, Any] = {
    found.ok().label: found.ok()  # type: ignore[union-attr]
    for found in SCHEMA.get_all_operations()
}
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.status_code_conformance,
]
BOUNDED = settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def answered(
    case: schemathesis.Case[Any], headers: dict[str, str], *, decoded: bool
) -> schemathesis.Response:
    """Pass a request to the function as API Gateway does, and return the answer as a client sees it."""
    from lambda_handler import api

    made = case.as_transport_kwargs(base_url="http://api.example", headers=headers)
    made.pop("timeout", None)
    request = requests.Request(**made).prepare()
    body = request.body or b""
    event = request_event(
        str(request.method),
        unquote(request.path_url) if decoded else request.path_url,
        {name: str(value) for name, value in request.headers.items()},
        body.encode() if isinstance(body, str) else body,
    )
    answer = api(event, Context())  # type: ignore[arg-type]
    found = {**answer.get("headers", {})}
    found |= {name: values[0] for name, values in answer.get("multiValueHeaders", {}).items()}
    return schemathesis.Response(
        status_code=answer["statusCode"],
        headers={name: [str(value)] for name, value in found.items()},
        content=answer["body"].encode(),
        request=request,
        elapsed=0.0,
        verify=False,
    )


def existing(known: Enrolled, model_id: int) -> list[dict[str, str]]:
    """Return path parameters of a model, and of updates that were begun, completed or never sent."""
    path = f"/v1/models/{model_id}/updates"
    body = description(b"0123456789")
    begun = [
        known.call("POST", path, body, Idempotency_Key=f"upload-{number}") for number in range(3)
    ]
    for number in (1, 2):
        put_part(begun[number].body["parts"][0], b"0123456789")
    names = [str(each.body["update"]) for each in begun]
    assert known.call("POST", f"{path}/{names[2]}/complete").status == 200
    return [
        {"model_id": str(model_id), "update": name} for name in (*names, names[0].replace("a", "b"))
    ]


@pytest.mark.usefixtures("fresh_services")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_is_a_server_error(label: str, mode: GenerationMode) -> None:
    """Whatever is sent, by a client or by a stranger, the answer is as the document describes it."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    write_pointer(application.objects(), model.pk)
    write_progress(application.objects(), model.pk)
    places = existing(known, model.pk)

    @BOUNDED
    @given(
        case=OPERATIONS[label].as_strategy(mode),
        place=st.sampled_from([None, *places]),
        is_known=st.sampled_from([True, True, False]),
        decoded=st.booleans(),
    )
    def send(
        case: schemathesis.Case[Any], place: dict[str, str] | None, is_known: bool, decoded: bool
    ) -> None:
        if place:
            for name in case.path_parameters or ():
                case.path_parameters[name] = place[name]
        headers = known.headers if is_known else {}
        response = answered(case, headers, decoded=decoded)
        case.validate_response(response, checks=CHECKS)

    send()

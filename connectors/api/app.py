"""The routes of the API, by Powertools' event handler; payload format 2.0 of an HTTP API."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response

from aggregation.errors import AggregationError, UpdateRejected, quoted
from connectors.api import schemas
from connectors.api.credentials import Authenticator, Caller
from connectors.api.documents import Documents
from connectors.api.enrollment import enroll, rotate
from connectors.api.problems import (
    CONTENT_TYPE,
    Problem,
    internal_error,
    invalid,
    not_found,
    problem_of,
)
from connectors.api.uploads import Uploads, upload_of
from connectors.intake.results import check_examples
from connectors.intake.scores import MAX_SCORE_BYTES
from connectors.intake.strict_json import parse_strict_json
from connectors.runtime.telemetry import logger
from connectors.storage.keys import SCORES
from connectors.storage.port import Objects

#: Characters of an idempotency key.
MAX_IDEMPOTENCY_KEY = 200

#: Digits of a model's id.
MAX_ID_DIGITS = 18

#: The bodies of requests, by operation; the OpenAPI document shows them.
BODIES: dict[str, schemas.Schema] = {
    "enroll": schemas.ENROLL,
    "rotateSecret": schemas.SECRET,
    "beginUpdate": schemas.UPDATE,
    "signParts": schemas.PARTS,
    "reportScore": schemas.SCORES,
}


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes use.

    Parameters
    ----------
    objects : Objects
    authenticator : Authenticator
    uploads : Uploads
    documents : Documents
    """

    objects: Objects
    authenticator: Authenticator
    uploads: Uploads
    documents: Documents


def create_app(services: Callable[[], Services]) -> APIGatewayHttpResolver:
    """Return the application.

    Parameters
    ----------
    services : callable
        Called at the first request that needs them.
    """
    app = APIGatewayHttpResolver()
    _handle_errors(app)
    _add_client_routes(app, services)
    _add_model_routes(app, services)
    _add_update_routes(app, services)
    return app


def _handle_errors(app: APIGatewayHttpResolver) -> None:
    def respond(problem: Problem) -> Response[str]:
        return Response(
            status_code=int(problem.status),
            content_type=CONTENT_TYPE,
            body=problem.body(app.current_event.path),
            headers=problem.headers(),
        )

    def refuse(problem: Problem) -> Response[str]:
        logger.info("request refused", status=int(problem.status), problem=problem.kind)
        return respond(problem)

    def fail(error: AggregationError) -> Response[str]:
        problem = problem_of(error)
        logger.warning("request failed", status=int(problem.status), error=str(error))
        return respond(problem)

    def crash(error: Exception) -> Response[str]:
        logger.exception("request crashed")
        return respond(internal_error())

    app.exception_handler(Problem)(refuse)
    app.exception_handler(AggregationError)(fail)
    app.exception_handler(Exception)(crash)

    @app.not_found
    def unknown_route(error: Exception) -> Response[str]:
        return respond(not_found("there is no such resource: see the API's reference"))


def _add_client_routes(app: APIGatewayHttpResolver, services: Callable[[], Services]) -> None:
    @app.post(
        "/v1/enroll", operation_id="enroll", summary="Enroll with a one-time token", tags=["client"]
    )
    def post_enroll() -> Response[str]:
        body = _body(app, schemas.ENROLL)
        enrolled = enroll(
            services().objects,
            token=body["token"],
            name=body.get("name", ""),
            secret_hash=body["secret_hash"],
        )
        services().authenticator.forget(enrolled.client_id)
        return _json(
            {
                "client": str(enrolled.client_id),
                "name": enrolled.name,
                "models": list(enrolled.models),
            }
        )

    @app.post(
        "/v1/secret", operation_id="rotateSecret", summary="Replace the secret", tags=["client"]
    )
    def post_secret() -> Response[str]:
        caller = _caller(app, services())
        body = _body(app, schemas.SECRET)
        rotate(services().objects, services().authenticator, caller, body["secret_hash"])
        return _json({"client": str(caller.client_id)})


def _add_model_routes(app: APIGatewayHttpResolver, services: Callable[[], Services]) -> None:
    @app.get(
        "/v1/models/<model_id>",
        operation_id="getModel",
        summary="What to train from, and how many updates are ready",
        tags=["model"],
    )
    def get_model(model_id: str) -> Response[str]:
        caller, number = _member(app, services(), model_id)
        return _json(services().documents.model(number, caller))

    @app.post(
        "/v1/models/<model_id>/scores",
        operation_id="reportScore",
        summary="Report what was measured of an aggregate",
        tags=["model"],
    )
    def post_scores(model_id: str) -> Response[str]:
        caller, number = _member(app, services(), model_id)
        body = _body(app, schemas.SCORES)
        score = _score(body["results"], body["num_examples"])
        key = f"{SCORES}{number}/{caller.client_id}/{body['aggregate']}.json"
        services().objects.put_json(key, score)
        return _json({"key": key})


def _add_update_routes(app: APIGatewayHttpResolver, services: Callable[[], Services]) -> None:
    @app.post(
        "/v1/models/<model_id>/updates",
        operation_id="beginUpdate",
        summary="Begin the upload of an update, or continue it",
        tags=["update"],
    )
    def post_update(model_id: str) -> Response[str]:
        caller, number = _member(app, services(), model_id)
        body = _body(app, schemas.UPDATE)
        key = _idempotency_key(app)
        return _json(services().uploads.begin(number, caller, key, body))

    @app.post(
        "/v1/models/<model_id>/updates/<update>/parts",
        operation_id="signParts",
        summary="Get links for further parts",
        tags=["update"],
    )
    def post_parts(model_id: str, update: str) -> Response[str]:
        caller, number = _member(app, services(), model_id)
        body = _body(app, schemas.PARTS)
        return _json(services().uploads.links(upload_of(number, caller, update), body["parts"]))

    @app.post(
        "/v1/models/<model_id>/updates/<update>/complete",
        operation_id="completeUpdate",
        summary="Complete an upload whose parts have arrived",
        tags=["update"],
    )
    def post_complete(model_id: str, update: str) -> Response[str]:
        caller, number = _member(app, services(), model_id)
        return _json(services().uploads.complete(upload_of(number, caller, update)))

    @app.get(
        "/v1/models/<model_id>/updates/<update>",
        operation_id="getUpdate",
        summary="What became of an update",
        tags=["update"],
    )
    def get_update(model_id: str, update: str) -> Response[str]:
        caller, number = _member(app, services(), model_id)
        upload = upload_of(number, caller, update)
        return _json(services().documents.update(upload))


def _json(document: dict[str, Any]) -> Response[str]:
    return Response(
        status_code=200,
        content_type="application/json",
        body=json.dumps(document),
        headers={"Cache-Control": "no-store"},
    )


def _body(app: APIGatewayHttpResolver, schema: schemas.Schema) -> dict[str, Any]:
    """Return the body of the request, which must match a schema."""
    try:
        body = parse_strict_json(app.current_event.decoded_body or "")
    except ValueError as error:
        raise invalid(f"the body must be a JSON object: {quoted(error)}") from error
    return schemas.validated(body, schema)


def _score(results: dict[str, Any], num_examples: int) -> bytes:
    """Return the object of a score that intake will read."""
    whole = {**results, "num_examples": num_examples}
    try:
        check_examples(whole)
    except UpdateRejected as error:
        raise invalid(str(error)) from error
    score = json.dumps(whole).encode()
    if len(score) > MAX_SCORE_BYTES:
        raise invalid(f"the score has {len(score)} bytes, at most {MAX_SCORE_BYTES} are accepted")
    return score


def _caller(app: APIGatewayHttpResolver, services: Services) -> Caller:
    return services.authenticator.authenticate(app.current_event.headers.get("authorization"))


def _member(app: APIGatewayHttpResolver, services: Services, model_id: str) -> tuple[Caller, int]:
    """Return the client of the request and the id of its model, of which it must be a member."""
    caller = _caller(app, services)
    known = model_id.isascii() and model_id.isdecimal() and len(model_id) <= MAX_ID_DIGITS
    if not known or int(model_id) not in caller.models:
        raise not_found(f"this client is not a member of a model {model_id[:MAX_ID_DIGITS]!r}")
    return caller, int(model_id)


def _idempotency_key(app: APIGatewayHttpResolver) -> str:
    key = app.current_event.headers.get("idempotency-key") or ""
    if not 8 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        raise invalid(
            f"expected the header Idempotency-Key with 8 to {MAX_IDEMPOTENCY_KEY} characters: the same "
            "whenever this update is sent again, and different for any other"
        )
    return key

"""The API for clients: its OpenAPI 3.1 document, which Powertools writes from the routes, and a page.

Powertools needs pydantic for that, which is a tool of development and not in the zip. The bodies of
requests are the JSON schemas by which the function validates them.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NoReturn

from local.reference.markdown import code, page, table

Document = dict[str, Any]

_TEXT = {"type": "string"}
_ID = {"type": "integer"}
_OPTIONAL_ID = {"type": ["integer", "null"]}
_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "number": _ID,
            "url": {"type": "string", "format": "uri"},
            "headers": {
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "To be sent with the part; the link is signed for them.",
            },
        },
        "required": ["number", "url", "headers"],
    },
}


def _answer(**properties: Any) -> Document:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _nullable(description: str, **properties: Any) -> Document:
    """Return the schema of an object with at least these members, or of null."""
    return _answer(**properties) | {"type": ["object", "null"], "description": description}


_UPLOAD = _answer(
    update=_TEXT,
    key=_TEXT,
    complete={"type": "boolean"},
    arrived={"type": "array", "items": _ID},
    parts=_PARTS,
)

#: What is answered, by operation.
ANSWERS: dict[str, Document] = {
    "enroll": _answer(client=_TEXT, name=_TEXT, models={"type": "array", "items": _ID}),
    "rotateSecret": _answer(client=_TEXT),
    "getModel": _answer(
        model=_ID,
        latest=_nullable(
            "What to train from and what to send, as in latest.json; null before there are weights.",
            url={
                "type": "string",
                "format": "uri",
                "description": "Of the weights, for GET by ranges.",
            },
            aggregate_id=_OPTIONAL_ID,
            number=_ID,
            key=_TEXT,
            etag=_TEXT,
            layout={
                "type": ["array", "null"],
                "items": _answer(
                    name=_TEXT, dtype=_TEXT, shape={"type": "array", "items": {"type": "integer"}}
                ),
                "description": "The tensors; null for JSON, and for a layout of more than 2 MiB.",
            },
            update_kind={"type": "string", "enum": ["weights", "differences"]},
            rule=_TEXT,
            requirement=_TEXT,
            tensor_policies={"type": "array"},
            frozen={"type": "array", "items": _TEXT},
            max_num_examples=_OPTIONAL_ID,
            furthest_base_agg=_OPTIONAL_ID,
            max_update_bytes=_ID,
        ),
        progress=_nullable(
            "How far the model is from its next round; null before it has weights or an update.",
            ready=_ID,
            needed=_ID,
            requirement=_TEXT,
            deadline={
                "type": ["string", "null"],
                "format": "date-time",
                "description": "When fewer updates will be enough; null if that depends on no time.",
            },
        ),
        status=_nullable(
            "What became of this client's latest updates; null before its first one.",
            updates={"type": "array"},
        ),
    ),
    "reportScore": _answer(key=_TEXT),
    "beginUpdate": _UPLOAD,
    "signParts": _UPLOAD,
    "completeUpdate": _answer(update=_TEXT, key=_TEXT, complete={"type": "boolean"}),
    "getUpdate": _answer(
        update=_TEXT,
        key=_TEXT,
        state={
            "type": "string",
            "enum": ["uploaded", "registered", "running", "complete", "superseded", "rejected"],
        },
        reason=_TEXT,
        aggregate={"type": ["integer", "null"], "description": "The id of the one it is part of."},
        weight={
            "type": ["number", "null"],
            "description": "Its share of that aggregate: 0 if the rule left it out; null if the "
            "aggregate was made elsewhere.",
        },
    ),
}

PROBLEM: Document = {
    "type": "object",
    "description": "RFC 9457. `detail` says what was wrong, what was expected and what to do.",
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": _ID,
        "detail": _TEXT,
        "instance": _TEXT,
    },
    "required": ["type", "title", "status", "detail", "instance"],
}

_IDEMPOTENCY_KEY: Document = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "schema": {"type": "string", "minLength": 8, "maxLength": 200},
    "description": "The same whenever this update is sent again, and different for any other.",
}


@cache
def openapi() -> Document:
    """Return the OpenAPI document."""
    from connectors.api.app import BODIES, create_app  # Django must be set up by then.

    def no_services() -> NoReturn:
        raise RuntimeError("the document is written without a bucket")

    app = create_app(no_services)
    written = app.get_openapi_json_schema(
        title="Federated aggregator",
        version="1",
        description="For clients without AWS credentials: docs/clients.md says how to use it.",
    )
    document: Document = json.loads(written)
    for methods in document["paths"].values():
        for operation in methods.values():
            _complete(operation, BODIES)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        "client": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "<client id>.<secret>",
        }
    }
    components["schemas"] = {"Problem": PROBLEM}
    return document


def _complete(operation: Document, bodies: dict[str, Document]) -> None:
    """Add to an operation what Powertools cannot know: its bodies, its errors and who may call it."""
    name = operation["operationId"]
    if name in bodies:
        content = {"application/json": {"schema": bodies[name]}}
        operation["requestBody"] = {"required": True, "content": content}
    if name == "beginUpdate":
        operation["parameters"].append(_IDEMPOTENCY_KEY)
    operation["security"] = [] if name == "enroll" else [{"client": []}]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    operation["responses"] = {
        "200": {
            "description": "Done, now or by the same request before.",
            "content": {"application/json": {"schema": ANSWERS[name]}},
        },
        "default": {"description": "The request was refused.", "content": problem},
    }


def openapi_document() -> str:
    """Return the OpenAPI document as JSON."""
    return json.dumps(openapi(), indent=1, sort_keys=True) + "\n"


def api_page() -> str:
    """Return the page: each operation, and the kinds of problems."""
    rows = [
        [code(f"{method.upper()} {path}"), operation["summary"]]
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
    ]
    return page(
        "The API for clients",
        "An HTTP API for clients without AWS credentials, which the template creates with `ClientApi=on`. "
        "[Sending an update](../clients.md) uses it through the client package; "
        "[openapi.json](openapi.json) describes it for other languages.",
        table(["request", "meaning"], sorted(rows)),
        "Every request but the first has the header `Authorization: Bearer <client id>.<secret>`. The "
        "client generates the secret, and sends its SHA-256 when it enrolls. Each request may be repeated.",
        "An error is a problem document (RFC 9457, `application/problem+json`): `type` names its kind, "
        "and `detail` says what was wrong, what was expected and what to do. While the database "
        "wakes, enrolling answers 503 with `Retry-After`; other requests do not need the database.",
    )

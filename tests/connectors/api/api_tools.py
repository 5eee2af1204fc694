"""Requests to the API, as API Gateway passes them to the function."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from connectors.usecases.administration.clients import invite
from local.api_front import request_event
from models_app.models import FederatedModel
from tests.test_lambda_handler import Context

MIB = 1 << 20


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


def call(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    from lambda_handler import api

    text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
    event = request_event(method, path, headers or {}, text.encode())
    answer = api(event, Context())  # type: ignore[arg-type]
    found = {**answer.get("headers", {})}
    for name, values in answer.get("multiValueHeaders", {}).items():
        found[name] = values[0]
    return Answer(answer["statusCode"], found, json.loads(answer["body"]))


@dataclass
class Enrolled:
    """A client that has enrolled, with its secret."""

    client_id: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.client_id}.{self.secret}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return call(method, path, body, self.headers | named)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def enrolled(model: FederatedModel, name: str = "") -> Enrolled:
    """Invite and enroll a client."""
    (invitation,) = invite(model, 1, timedelta(days=1))
    secret = secrets.token_urlsafe(32)
    body = {"token": invitation.token, "name": name, "secret_hash": digest(secret)}
    answer = call("POST", "/v1/enroll", body)
    assert answer.status == 200, answer
    return Enrolled(answer.body["client"], secret)


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def pieces_of(data: bytes, part_bytes: int) -> list[bytes]:
    return [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]


def description(data: bytes, part_bytes: int = 5 * MIB, **more: Any) -> dict[str, Any]:
    """Return the body with which an upload begins."""
    return {
        "size": len(data),
        "format": "safetensors",
        "num_examples": 10,
        "part_bytes": part_bytes,
        "parts": [checksum(piece) for piece in pieces_of(data, part_bytes)],
        **more,
    }


def put_part(part: dict[str, Any], data: bytes) -> int:
    """Send a part by its link; only with the signed headers."""
    request = urllib.request.Request(
        part["url"], data=data, method="PUT", headers={"Content-Type": "", **part["headers"]}
    )
    with urllib.request.urlopen(request) as response:
        return int(response.status)


def problem(answer: Answer) -> str:
    """Return the kind of a problem document, after checking its form."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["status"] == answer.status
    assert answer.body["detail"]
    assert answer.body["instance"].startswith("/")
    return str(answer.body["type"]).removeprefix("urn:federation:problem:")

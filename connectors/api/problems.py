"""Errors of the API as problem documents (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from aggregation.errors import AggregationError, TemporarilyUnavailable, UpdateRejected

CONTENT_TYPE = "application/problem+json"

#: Seconds after which a client should try again while the database wakes.
RETRY_AFTER_SECONDS = 10


class Problem(Exception):
    """The reason why a request is refused.

    Parameters
    ----------
    status : HTTPStatus
    kind : str
        A short name that stays the same, such as ``quota-exceeded``.
    detail : str
        What was wrong, what was expected, and what to do.
    retry_after : int, optional
        Seconds after which the same request may succeed.
    extensions
        Further members of the document.
    """

    def __init__(
        self,
        status: HTTPStatus,
        kind: str,
        detail: str,
        *,
        retry_after: int | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after
        self.extensions = extensions

    def body(self, instance: str) -> str:
        """Return the problem document for a request's path."""
        return json.dumps(
            {
                "type": f"urn:federation:problem:{self.kind}",
                "title": self.status.phrase,
                "status": int(self.status),
                "detail": self.detail,
                "instance": instance,
                **self.extensions,
            }
        )

    def headers(self) -> dict[str, str]:
        """Return the headers of the response beside its content type."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="federation"'
        return headers


def invalid(detail: str) -> Problem:
    """Return the problem of a request that is not well formed."""
    return Problem(HTTPStatus.BAD_REQUEST, "invalid-request", detail)


def not_found(detail: str) -> Problem:
    """Return the problem of something that does not exist, or that this client may not see."""
    return Problem(HTTPStatus.NOT_FOUND, "not-found", detail)


def problem_of(error: AggregationError) -> Problem:
    """Return the problem for an error of the database or of storage."""
    if isinstance(error, TemporarilyUnavailable):
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "temporarily-unavailable",
            "a service that this request needs does not answer yet: try again after Retry-After seconds",
            retry_after=RETRY_AFTER_SECONDS,
        )
    if isinstance(error, UpdateRejected):
        return Problem(HTTPStatus.CONFLICT, "unreadable", str(error))
    return internal_error()


def internal_error() -> Problem:
    """Return the problem of an error that the client can do nothing about."""
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal-error",
        "the aggregator could not do this, and trying again will not help: tell the operator",
    )

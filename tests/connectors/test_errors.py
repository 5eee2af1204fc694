"""Errors of the database, of S3 and of other AWS services become the core's own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from django.db import IntegrityError, InterfaceError, InternalError, OperationalError

from aggregation.errors import ObjectMissing, ProgressLost, TemporarilyUnavailable, UpdateRejected
from connectors.errors import (
    ServiceRefused,
    translate_aws_errors,
    translate_database_errors,
    translate_s3_errors,
    translate_s3_read_errors,
)


def answer(code: str, status: int, message: str = "") -> ClientError:
    """The error with which a service answers."""
    error: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(error, "Operation")


TRANSLATIONS = pytest.mark.parametrize(
    "translate",
    [lambda: translate_aws_errors("the queue"), translate_s3_errors, translate_s3_read_errors],
    ids=["aws", "s3", "s3-read"],
)


@TRANSLATIONS
@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "Invented"])
def test_a_refused_request_is_never_temporary(translate: Any, code: str) -> None:
    """Denied access, and every answer that is not known to be temporary, is refused for good."""
    with pytest.raises(ServiceRefused, match=code), translate():
        raise answer(code, 403)


@TRANSLATIONS
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InternalError", 500),
        ("ServiceUnavailable", 503),
        ("TooManyRequestsException", 429),
        ("SlowDown", 400),
        ("ThrottlingException", 400),
        ("RequestThrottled", 403),
    ],
)
def test_a_service_that_asks_for_a_retry_is_temporarily_unavailable(
    translate: Any, code: str, status: int
) -> None:
    """Errors of the server, and throttling, are temporary."""
    with pytest.raises(TemporarilyUnavailable, match=code), translate():
        raise answer(code, status)


@TRANSLATIONS
@pytest.mark.parametrize(
    "error",
    [EndpointConnectionError(endpoint_url="http://x"), ReadTimeoutError(endpoint_url="http://x")],
)
def test_a_failed_network_is_temporarily_unavailable(translate: Any, error: Exception) -> None:
    """The service was not reached, or its answer did not arrive."""
    with pytest.raises(TemporarilyUnavailable, match="cannot be reached"), translate():
        raise error


@TRANSLATIONS
def test_missing_credentials_are_not_temporary(translate: Any) -> None:
    """A retry does not provide them."""
    with pytest.raises(ServiceRefused, match="credentials"), translate():
        raise NoCredentialsError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("NoSuchKey", ObjectMissing),
        ("404", ObjectMissing),
        ("PreconditionFailed", UpdateRejected),
        ("InvalidRange", UpdateRejected),
        ("NoSuchUpload", ProgressLost),
    ],
)
def test_answers_of_s3_about_one_object_have_classes_of_their_own(
    code: str, expected: type[Exception]
) -> None:
    """They say something about the object, and nothing about the service."""
    with pytest.raises(expected), translate_s3_errors():
        raise answer(code, 400)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDenied", "not authorized to perform: kms:Decrypt"),
        ("InvalidObjectState", ""),
        ("KMS.DisabledException", ""),
    ],
)
def test_an_object_that_its_uploader_made_unreadable_is_rejected(code: str, message: str) -> None:
    """Only while reading: a write that is denied by KMS is the operator's own key."""
    with pytest.raises(UpdateRejected, match="cannot be read"), translate_s3_read_errors():
        raise answer(code, 403, message)
    with pytest.raises(ServiceRefused), translate_s3_errors():
        raise answer(code, 403, message)


@pytest.mark.parametrize("error", [OperationalError, InterfaceError, InternalError])
def test_a_database_that_cannot_be_reached_is_temporarily_unavailable(
    error: type[Exception],
) -> None:
    """PostgreSQL raises each of them when its connection or its server is lost."""
    with pytest.raises(TemporarilyUnavailable), translate_database_errors():
        raise error("server closed the connection")


def test_a_violated_constraint_is_no_outage() -> None:
    """It is an error of the program and keeps its class."""
    untranslated: AbstractContextManager[None] = translate_database_errors()
    with pytest.raises(IntegrityError), untranslated:
        raise IntegrityError("duplicate key")

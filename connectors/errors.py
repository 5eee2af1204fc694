"""The only translation of errors of the database, of S3 and of other AWS services into the core's own.

A service that may answer later is `TemporarilyUnavailable`. A request that will be refused again, such as
one without the permission it needs, is `ServiceRefused`: denied access is never temporary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NoConnection
from django.db import InterfaceError, InternalError, OperationalError, connection

from aggregation.errors import (
    AggregationError,
    ObjectMissing,
    ProgressLost,
    TemporarilyUnavailable,
    UpdateRejected,
)

#: The network failed before, or while, the service answered.
NETWORK_ERRORS = (NoConnection, HTTPClientError, IncompleteReadError, ResponseStreamingError)

#: The process has no, or incomplete, credentials.
CREDENTIAL_ERRORS = (NoCredentialsError, PartialCredentialsError)

#: Codes with which AWS services ask the caller to try again, in addition to the status codes 429 and 5xx.
TEMPORARY_CODES = {
    "SlowDown",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "ConditionalRequestConflict",
    "KMS.ThrottlingException",
}
TOO_MANY_REQUESTS = 429

OBJECT_REPLACED = "the object was replaced after its upload was announced"

#: S3 refuses to read an archived object, or one encrypted with a key that its uploader has kept.
UNREADABLE_CODES = ("InvalidObjectState", "InvalidRequest")

#: Prefix of what KMS answered to S3 about the key of an object: disabled, deleted...
KMS_PREFIX = "KMS."


class UnknownModel(LookupError):
    """There is no federated model with this id."""


class ServiceRefused(AggregationError):
    """An AWS service refused a request and will refuse it again, for example for a missing permission."""


@contextmanager
def translate_database_errors() -> Iterator[None]:
    """Raise `TemporarilyUnavailable` when the database cannot be reached.

    PostgreSQL raises an `InternalError` when it has ended an idle transaction, or when the server has
    become a replica.
    """
    try:
        yield
    except (OperationalError, InterfaceError, InternalError) as error:
        # The next statement of this invocation opens another connection, perhaps to another server.
        if not connection.in_atomic_block:
            connection.close()
        raise TemporarilyUnavailable(f"the database cannot be reached: {error}") from error


@contextmanager
def translate_aws_errors(service: str) -> Iterator[None]:
    """Translate errors of an AWS service other than S3.

    Parameters
    ----------
    service : str
        Name of the service for the message, such as "the queue".

    Raises
    ------
    TemporarilyUnavailable
        If the service cannot be reached, or asks the caller to try again later.
    ServiceRefused
        If it refused the request for any other reason.
    """
    try:
        yield
    except NETWORK_ERRORS as error:
        raise TemporarilyUnavailable(f"{service} cannot be reached: {error}") from error
    except CREDENTIAL_ERRORS as error:
        raise ServiceRefused(f"{service} cannot be called: {error}") from error
    except ClientError as error:
        raise _service_error(error, service) from error


@contextmanager
def translate_s3_errors() -> Iterator[None]:
    """Translate errors of S3.

    Raises
    ------
    ObjectMissing
    UpdateRejected
        If the object was replaced or is shorter than expected.
    ProgressLost
        If the multipart upload does not exist any more.
    TemporarilyUnavailable, ServiceRefused
        As by `translate_aws_errors`.
    """
    try:
        with translate_aws_errors("S3"):
            yield
    except (ServiceRefused, TemporarilyUnavailable) as error:
        if isinstance(error.__cause__, ClientError):
            raise s3_error(error.__cause__) from error.__cause__
        raise


@contextmanager
def translate_s3_read_errors() -> Iterator[None]:
    """Translate errors of S3 where an uploader may have made the object unreadable.

    Raises
    ------
    UpdateRejected
        If the object is archived, or encrypted with a key that the function may not use.
    """
    try:
        with translate_s3_errors():
            yield
    except ServiceRefused as error:
        if isinstance(error.__cause__, ClientError) and _is_unreadable(error.__cause__):
            raise unreadable_object(error.__cause__) from error
        raise


def s3_error(error: ClientError) -> AggregationError:
    """Return the core's error for an error that S3 answered with."""
    code = error_code(error)
    if code in ("NoSuchKey", "NoSuchVersion", "404"):
        return ObjectMissing("the object is not there: deleted, or not visible yet")
    if code in ("PreconditionFailed", "412"):
        return UpdateRejected(OBJECT_REPLACED)
    if code in ("InvalidRange", "416"):
        return UpdateRejected("the object is shorter than expected")
    if code == "NoSuchUpload":
        return ProgressLost("the unfinished result is no longer in S3")
    return _service_error(error, "S3")


def unreadable_object(error: ClientError) -> UpdateRejected:
    """Return the rejection of an update whose object cannot be read because of how it is stored."""
    return UpdateRejected(f"the object is stored so that it cannot be read: {error_code(error)}")


def error_code(error: ClientError) -> str:
    """Return the code of an error that an AWS service answered with."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _service_error(error: ClientError, service: str) -> AggregationError:
    answer: Any = error.response
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or status == TOO_MANY_REQUESTS or error_code(error) in TEMPORARY_CODES:
        return TemporarilyUnavailable(f"{service} cannot be reached: {error}")
    return ServiceRefused(f"{service} refused the request: {error}")


def _is_unreadable(error: ClientError) -> bool:
    code = error_code(error)
    if (
        code == "AccessDenied"
    ):  # The message names kms:Decrypt where the key's policy denies access.
        return "kms:" in error.response["Error"].get("Message", "")
    return code in UNREADABLE_CODES or code.startswith(KMS_PREFIX)

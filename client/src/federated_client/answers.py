"""The meaning of an error that S3 answers: one table for requests with and without credentials."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import (
    AccessDenied,
    ClientError,
    CredentialsInvalid,
    DownloadRefused,
    Misconfigured,
    NoBucket,
    NotThere,
    StorageUnreachable,
    UploadRefused,
)

#: Codes of S3 with a status below 500 that may succeed when the request is made again.
_TEMPORARY = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}

#: Codes that say what is wrong with the credentials, and what to do.
_CREDENTIALS = {
    "ExpiredToken": "the credentials have expired: get new ones",
    "ExpiredTokenException": "the credentials have expired: get new ones",
    "RequestExpired": "the request's signature has expired: check this machine's clock",
    "TokenRefreshRequired": "the credentials have expired: get new ones",
    "InvalidToken": "the session token is not valid",
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret key does not match the access key",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
}

#: Codes of a request that went to the wrong place.
_MISDIRECTED = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}

_CODE = re.compile(r"<Code>([\w.]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


class Answer(NamedTuple):
    """An answer of S3 that is not a success."""

    status: int
    code: str
    message: str


def parse_answer(status: int, body: str) -> Answer:
    """Return the code and the message of S3's error document, empty where there is none."""
    code, message = _CODE.search(body), _MESSAGE.search(body)
    return Answer(status, code[1] if code else "", message[1] if message else "")


def error_of(answer: Answer, key: str, *, bucket: str = "", upload: bool) -> ClientError:
    """Return the error for an answer of S3."""
    status, code, message = answer
    said = f"{status} {code} {message}".strip()
    if code in _CREDENTIALS:
        return CredentialsInvalid(f"{_CREDENTIALS[code]} ({said})")
    if code in _TEMPORARY or status >= 500 or status in (408, 425, 429):
        return StorageUnreachable(f"storage answers {said}")
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return NoBucket(f"there is no bucket {bucket!r}")
    if code in _MISDIRECTED or 300 <= status < 400:
        return Misconfigured(f"the bucket is in another Region, or at another address: {said}")
    if status in (404, 412):
        return NotThere(
            f"there is no object {key}{f' in bucket {bucket}' if bucket else ''}"
            if status == 404
            else f"{key} is no longer the object that was announced"
        )
    return _refusal(answer, said, key, upload=upload)


def _refusal(answer: Answer, said: str, key: str, *, upload: bool) -> ClientError:
    """Return the error for a request that storage understood and does not allow."""
    if "expired" in answer.message.lower():
        return CredentialsInvalid(f"the presigned post for {key} has expired: ask for a new one")
    if answer.status in (401, 403):
        return AccessDenied(f"not allowed to reach {key}: {said}")
    if answer.code == "EntityTooLarge":
        return UploadRefused(f"{key} is larger than its presigned post allows: {said}")
    if upload:
        return UploadRefused(f"storage refuses {key}: {said}")
    return DownloadRefused(f"storage refuses to send {key}: {said}")

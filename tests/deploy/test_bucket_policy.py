"""What the bucket's policy denies to those who have the right to upload."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.deploy.stack import template

SSE = "s3:x-amz-server-side-encryption"
SSE_C = "s3:x-amz-server-side-encryption-customer-algorithm"


def denied(key: str, told: dict[str, str]) -> bool:
    """Whether a PutObject below this key, with these conditions of the request, is denied."""
    policy = template()["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]
    puts = [each for each in policy["Statement"] if each["Action"] == "s3:PutObject"]
    return any(
        each["Effect"] == "Deny"
        and each["Principal"] == "*"
        and any(fnmatchcase(key, place.partition("}/")[2]) for place in _texts(each["Resource"]))
        and all(
            _holds(operator, told.get(name), value)
            for operator, values in each["Condition"].items()
            for name, value in values.items()
        )
        for each in puts
    )


def _texts(resources: Any) -> list[str]:
    return [str(next(iter(each.values()))) for each in resources]


def _holds(operator: str, told: str | None, value: str) -> bool:
    """IAM's condition operators, as far as they are used; a key that is absent equals nothing."""
    return {"Null": (told is None) == (value == "true"), "StringNotEquals": told != value}[operator]


@pytest.mark.parametrize("prefix", ["updates", "scores"])
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, False),
        ({SSE: "AES256"}, False),
        ({SSE: "aws:kms"}, True),
        ({SSE: "aws:kms:dsse"}, True),
        ({SSE_C: "AES256"}, True),
    ],
)
def test_clients_cannot_lock_objects_away(
    prefix: str, told: dict[str, str], expected: bool
) -> None:
    """An object under a key of its uploader's, of KMS or its own, is not taken; any other is."""
    assert denied(f"{prefix}/3/client/a.npz", told) is expected


def test_what_operators_store_is_theirs_to_encrypt() -> None:
    """Initial models and aggregates are not held to that."""
    for prefix in ("artifacts", "aggregates"):
        assert not denied(f"{prefix}/3/a.npz", {SSE: "aws:kms"})

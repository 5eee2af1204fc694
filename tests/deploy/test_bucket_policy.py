"""What the policy of the bucket denies to those who may upload."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.deploy.practices import flat
from tests.deploy.stack import template

SSE = "s3:x-amz-server-side-encryption"
SSE_C = "s3:x-amz-server-side-encryption-customer-algorithm"


def denied(key: str, headers: dict[str, str]) -> bool:
    """Return whether a PutObject with this key and these condition keys is denied."""
    policy = template()["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]
    puts = [each for each in flat(policy["Statement"]) if each["Action"] == "s3:PutObject"]
    return any(
        each["Effect"] == "Deny"
        and each["Principal"] == "*"
        and any(fnmatchcase(key, place.partition("}/")[2]) for place in _texts(each["Resource"]))
        and all(
            _holds(operator, headers.get(name), value)
            for operator, values in each["Condition"].items()
            for name, value in values.items()
        )
        for each in puts
    )


def _texts(resources: Any) -> list[str]:
    return [str(next(iter(each.values()))) for each in resources]


def _holds(operator: str, headers: str | None, value: str) -> bool:
    """Evaluate the used condition operators of IAM; a missing key equals nothing."""
    return {"Null": (headers is None) == (value == "true"), "StringNotEquals": headers != value}[
        operator
    ]


@pytest.mark.parametrize("prefix", ["updates", "scores"])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({SSE: "AES256"}, False),
        ({SSE: "aws:kms"}, True),
        ({SSE: "aws:kms:dsse"}, True),
        ({SSE_C: "AES256"}, True),
    ],
)
def test_clients_cannot_use_their_own_keys(
    prefix: str, headers: dict[str, str], expected: bool
) -> None:
    """An upload that is encrypted with a KMS or client key is denied, and any other is allowed."""
    assert denied(f"{prefix}/3/client/a.npz", headers) is expected


def test_operators_may_use_their_own_keys() -> None:
    """Initial models and aggregates may be encrypted with any key."""
    for prefix in ("artifacts", "aggregates"):
        assert not denied(f"{prefix}/3/a.npz", {SSE: "aws:kms"})

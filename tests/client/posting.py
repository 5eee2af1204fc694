"""What S3 does with a presigned post and moto does not: refuse a form that violates its policy."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

#: Fields that a policy need not mention.
FREE = {"policy", "signature", "awsaccesskeyid", "x-amz-signature"}


def parse(content_type: str, body: bytes) -> tuple[dict[str, str], int]:
    """Return a form's fields by lower-case name, and the size of its file."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    form: dict[str, str] = {}
    size = 0
    for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if name == "file":
            size = len(content)
            form["key"] = form["key"].replace("${filename}", part.get_filename() or "")
        else:
            form[name.lower()] = content.decode()
    return form, size


def refusals(form: Mapping[str, str], size: int, bucket: str) -> Iterator[tuple[str, str]]:
    """Yield the code and message of each reason for which S3 would refuse a form."""
    policy = json.loads(base64.b64decode(form["policy"]))
    if datetime.fromisoformat(policy["expiration"]) < datetime.now(UTC):
        yield "AccessDenied", "Invalid according to Policy: Policy expired."
    mentioned = set(FREE)
    for condition in policy["conditions"]:
        kind, name, expected = _as_triple(condition)
        if kind == "content-length-range":
            if not name <= size <= expected:
                yield "EntityTooLarge", f"{size} bytes"
            continue
        name = name.removeprefix("$").lower()
        mentioned.add(name)
        value = bucket if name == "bucket" else form.get(name)
        matches = value == expected if kind == "eq" else (value or "").startswith(expected)
        if value is None or not matches:
            yield (
                "AccessDenied",
                f"Invalid according to Policy: Policy Condition failed: {condition}",
            )
    for name in form.keys() - mentioned:
        yield "AccessDenied", f"Invalid according to Policy: Extra input fields: {name}"


def _as_triple(condition: Any) -> tuple[str, Any, Any]:
    """Return a condition as its operator and two operands."""
    if isinstance(condition, dict):
        ((name, value),) = condition.items()
        return "eq", name, value
    kind, first, second = condition
    return kind, first, second

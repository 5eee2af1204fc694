"""What S3 does with a presigned post before it stores a thing, and moto does not: hold it to its policy."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

#: Fields that a policy need not speak of.
FREE = {"policy", "signature", "awsaccesskeyid", "x-amz-signature"}


def parse(content_type: str, body: bytes) -> tuple[dict[str, str], int]:
    """A form's fields by lower-case name, and the size of its file."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    form, size = {}, 0
    for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
        field = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if field == "file":
            size = len(content)
            form["key"] = form["key"].replace("${filename}", part.get_filename() or "")
        else:
            form[field.lower()] = content.decode()
    return form, size


def refusals(form: Mapping[str, str], size: int, bucket: str) -> Iterator[tuple[str, str]]:
    """What S3 would refuse a form for: code and message."""
    policy = json.loads(base64.b64decode(form["policy"]))
    if datetime.fromisoformat(policy["expiration"]) < datetime.now(UTC):
        yield "AccessDenied", "Invalid according to Policy: Policy expired."
    spoken_of = set(FREE)
    for condition in policy["conditions"]:
        kind, field, value = _as_list(condition)
        if kind == "content-length-range":
            if not field <= size <= value:
                yield "EntityTooLarge", f"{size} bytes"
            continue
        field = field.removeprefix("$").lower()
        spoken_of.add(field)
        told = bucket if field == "bucket" else form.get(field)
        if told is None or not (told == value if kind == "eq" else told.startswith(value)):
            yield (
                "AccessDenied",
                f"Invalid according to Policy: Policy Condition failed: {condition}",
            )
    for field in form.keys() - spoken_of:
        yield "AccessDenied", f"Invalid according to Policy: Extra input fields: {field}"


def _as_list(condition: Any) -> tuple[str, Any, Any]:
    """A condition as its operator and two operands."""
    if isinstance(condition, dict):
        ((field, value),) = condition.items()
        return "eq", field, value
    kind, first, second = condition
    return kind, first, second

"""The reference page of waits, pools and caps, generated from the comments of the constants."""

from __future__ import annotations

import ast

from local.reference.markdown import ROOT, code, page, table

#: The modules whose constants are listed, by the title of their section.
SECTIONS = {
    "The function": "connectors/limits.py",
    "Requests to S3": "connectors/storage/retries.py",
    "Garbage": "connectors/storage/garbage.py",
    "Keys": "connectors/storage/keys.py",
    "Scores": "connectors/intake/scores.py",
    "Events": "connectors/publication/outbox.py",
    "The pointer": "connectors/publication/pointer.py",
    "Documents that follow the database": "connectors/publication/replacement.py",
    "Weights of clients": "aggregation/formats/limits.py",
    "The engine": "aggregation/engine/ranges.py",
    "Passes over the updates": "aggregation/engine/passes.py",
    "The client package": "client/src/federated_client/limits.py",
}


def limits_page() -> str:
    """Return the page: each constant with its value and its reason, by module."""
    parts = [
        part
        for title, path in SECTIONS.items()
        for part in (
            f"## {title}",
            f"From `{path}`.",
            table(["constant", "value", "reason"], _rows(path)),
        )
    ]
    return page(
        "Limits",
        "Every wait, pool and cap that is not a setting, with the reason for its value. Those that are "
        "settings are in [Settings](settings.md), those of the stack are parameters in "
        "[Deploying](../deploy.md).",
        *parts,
    )


def _rows(path: str) -> list[list[str]]:
    """Return the public constants of a module that are numbers or durations and have a comment."""
    lines = (ROOT / path).read_text().splitlines()
    rows: list[list[str]] = []
    comment: list[str] = []
    reason = ""
    for line in lines:
        if line.startswith("#:"):
            comment.append(line.removeprefix("#:").strip())
            continue
        if comment:
            reason, comment = " ".join(comment), []
        name, equals, value = line.partition(" = ")
        if equals and name.isupper() and not name.startswith("_") and reason and _is_value(value):
            rows.append([code(name), value, reason])
        elif not line:
            reason = ""
    return rows


def _is_value(text: str) -> bool:
    """Return whether an expression consists only of numbers, or is a duration."""
    try:
        expression = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    allowed = (ast.Expression, ast.BinOp, ast.Constant, ast.operator, ast.Call, ast.keyword)
    return all(
        isinstance(node, allowed)
        or (isinstance(node, ast.Name | ast.expr_context) and "timedelta" in text)
        for node in ast.walk(expression)
    ) and not text.startswith(('"', "'"))

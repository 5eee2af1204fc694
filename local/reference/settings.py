"""The reference page of the settings, generated from settings.py."""

from __future__ import annotations

import ast
from typing import TypeGuard

from local.reference.markdown import ROOT, code, page, table


def settings_page() -> str:
    """Return the page: each variable with its type, default and bounds, and the comment before it."""
    source = (ROOT / "settings.py").read_text()
    comments = _comments_by_line(source)
    rows = []
    for statement in ast.parse(source).body:
        call = getattr(statement, "value", None)
        if (
            isinstance(statement, ast.Assign)
            and _reads_environment(call)
            and comments.get(statement.lineno)
        ):
            rows.append(_setting(call, comments[statement.lineno]))
    return page(
        "Settings",
        "Settings are environment variables, read once when a process starts. If variables are missing or "
        "invalid, the process refuses to start and names all of them. An empty `BUCKET`, `STORAGE_ROOT`, "
        "`QUEUE_URL` or `EVENT_BUS` counts as unset.",
        table(["variable", "type", "default", "meaning"], rows),
        "The template sets them from its parameters ([Deploying](../deploy.md)). boto3 and Powertools "
        "read variables of their own, such as `AWS_REGION`, `AWS_ENDPOINT_URL` and "
        "`POWERTOOLS_LOG_LEVEL`.",
    )


def _comments_by_line(source: str) -> dict[int, str]:
    """Return each ``#:`` comment by the number of the line that follows it."""
    found: dict[int, str] = {}
    gathered: list[str] = []
    for number, line in enumerate(source.splitlines(), start=1):
        if line.startswith("#:"):
            gathered.append(line.removeprefix("#:").strip())
        elif gathered:
            found[number] = " ".join(gathered)
            gathered = []
    return found


def _reads_environment(call: ast.expr | None) -> TypeGuard[ast.Call]:
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "env"
    )


def _setting(call: ast.Call, meaning: str) -> list[str]:
    assert isinstance(call.func, ast.Attribute)
    name, *defaults = call.args
    kind = {"database_url": "URL", "integer": "integer", "flag": "`true` or `false`"}
    described = kind.get(call.func.attr, call.func.attr)
    bounds = _range(call)
    return [
        code(ast.literal_eval(name)),
        f"{described}, {bounds}" if bounds else described,
        _default(defaults[0]) if defaults else "required",
        meaning,
    ]


def _range(call: ast.Call) -> str:
    """Return the bounds of an integer, in words."""
    bounds = {bound.arg: _number(bound.value) for bound in call.keywords}
    if not bounds:
        return ""
    return f"{bounds['min']} to {bounds['max']}" if "max" in bounds else f"{bounds['min']} or more"


def _default(expression: ast.expr) -> str:
    """Return a default as it would be written in the environment, or "computed"."""
    try:
        value = ast.literal_eval(expression)
    except ValueError:
        return _number(expression) if _is_number(expression) else "computed"
    match value:
        case "":
            return "none"
        case bool():
            return code(str(value).lower())
        case list():
            return code(",".join(value))
        case _:
            return _number(expression)


def _is_number(expression: ast.expr) -> bool:
    return all(
        isinstance(each, ast.BinOp | ast.Constant | ast.operator) for each in ast.walk(expression)
    )


def _number(expression: ast.expr) -> str:
    return f"{eval(ast.unparse(expression), {}):,}".replace(",", " ")  # a literal, or a power

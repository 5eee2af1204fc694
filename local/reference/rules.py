"""Rules and requirements, from their classes: docstrings, arguments, and the bounds that are checked."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from aggregation.requirements import Requirement
from aggregation.rules import known_rules
from local.reference.markdown import code, page, table


def rules_page() -> str:
    """Every rule, from the registry: its docstring, its arguments and what it asks for."""
    rules = sorted(set(known_rules().values()), key=lambda rule: rule.name)
    return page(
        "Rules",
        "What a federated model's `aggregator` may be, with `aggregator_args` by name. An unknown name "
        "or argument, or one out of range, is refused when the model is saved. "
        "[Choose a rule](../how-to/choose-a-rule.md) tells which to take, "
        "[Write a rule](../how-to/write-a-rule.md) how to add one.",
        "*n* is the number of updates in a round. A round waits until the rule has as many as it needs.",
        *(part for rule in rules for part in _rule(rule)),
    )


def _rule(rule: Any) -> Iterator[str]:
    text, described = _docstring(rule)
    yield f"## {rule.name}"
    if rule.aliases:
        yield "Also " + ", ".join(map(code, rule.aliases)) + "."
    yield text
    rows = _arguments(rule, described)
    if rows:
        yield table(["argument", "type", "default", "bounds", "meaning"], rows)
    yield " ".join(_costs(rule))


def _costs(rule: Any) -> Iterator[str]:
    passes = "twice" if rule.needs_gram or rule.needs_norms else "once"
    yield f"Reads the updates {passes}."
    if rule.needs_gram:
        yield "Measures the inner products of all pairs of them."
    elif rule.needs_norms:
        yield "Measures how far each is from the aggregate before."
    if rule.on_differences:
        yield "Needs an aggregate, or an initial model, to start from."


def requirements_page() -> str:
    """Every requirement, from its class."""
    kinds = [kind for kind in Requirement.__subclasses__() if kind.name]
    return page(
        "Requirements",
        "When a round of a model may start: its `requirement`, with `requirement_args` by name, or by "
        "position. Without one, a single ready update is enough. What counts are clients, never uploads: "
        "whoever uploads three times is one. The requirement is asked again when updates turned out to be "
        "unusable, before anything is published.",
        *(part for kind in kinds for part in _requirement(kind)),
    )


def _requirement(kind: Any) -> Iterator[str]:
    text, described = _docstring(kind)
    yield f"## {kind.name}"
    yield text
    rows = _arguments(kind, described)
    if rows:
        yield table(["argument", "type", "default", "bounds"], [row[:4] for row in rows])


def _docstring(kind: Any) -> tuple[str, dict[str, str]]:
    """What a docstring says, as Markdown, and what it says of each parameter."""
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    text, _, parameters = text.partition("\nParameters\n----------\n")
    described = re.findall(r"^(\w+) : .*\n((?: {4}.*\n?)+)", parameters, re.MULTILINE)
    return text.strip(), {name: " ".join(meaning.split()) for name, meaning in described}


def _arguments(kind: Any, described: dict[str, str]) -> list[list[str]]:
    bounds = _bounds(kind)
    rows = []
    for field in dataclasses.fields(kind):
        default = "required" if field.default is dataclasses.MISSING else code(field.default)
        number = "whole number" if field.type == "int" else "number"
        meaning = described.get(field.name, "")
        rows.append([code(field.name), number, default, bounds.get(field.name, ""), meaning])
    return rows


def _bounds(kind: Any) -> dict[str, str]:
    """The bounds that are checked when an instance is made, read from the checks themselves."""
    if "__post_init__" not in vars(kind):
        return {}
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(kind.__post_init__))).body
    assert isinstance(function, ast.FunctionDef)
    return dict(map(_checked, function.body))


def _checked(statement: ast.stmt) -> tuple[str, str]:
    """An argument and its bounds; what stands in ``if self.beta != 0:`` lets the zero pass as well."""
    allowed = ""
    if isinstance(statement, ast.If):
        assert isinstance(statement.test, ast.Compare)
        allowed = f", or {ast.unparse(statement.test.comparators[0])}"
        (statement,) = statement.body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    bounds = [_limit(each.arg, each.value) for each in statement.value.keywords]
    return ast.literal_eval(statement.value.args[0]), ", ".join(bounds) + allowed


def _limit(word: str | None, limit: ast.expr) -> str:
    value = ast.unparse(limit)
    return f"{str(word).replace('_', ' ')} {CONSTANTS.get(value, value)}"


#: Bounds that have a name in the code.
CONSTANTS = {"MAX_MINUTES": "a hundred years"}

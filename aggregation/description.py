"""What the arguments of rules, optimizers, steps and requirements are, for forms and reference pages."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Any

from aggregation.arguments import number, whole_number
from aggregation.errors import RuleError

#: Bounds that have a name in the code.
NAMED_BOUNDS = {"MAX_MINUTES": "a hundred years"}


@dataclass(frozen=True, kw_only=True)
class Argument:
    """An argument of a rule.

    Parameters
    ----------
    name : str
    is_whole : bool
        Whether it is a whole number.
    is_required : bool
    default : int, float or None
    limits : dict
        Some of ``above``, ``at_least``, ``below`` and ``at_most``, with numbers.
    bounds : str
        The limits in words, such as ``at least 0, below 0.5``.
    meaning : str
        From the docstring; may be empty.
    """

    name: str
    is_whole: bool
    is_required: bool
    default: Any
    limits: dict[str, float] = field(default_factory=dict)
    bounds: str = ""
    meaning: str = ""

    def parse(self, text: str) -> int | float:
        """Return the number that was typed.

        Raises
        ------
        RuleError
            If it is none, or out of bounds.
        """
        noun = "whole number" if self.is_whole else "number"
        try:
            value = int(text) if self.is_whole else float(text)
        except ValueError:
            raise RuleError(f"{self.name} must be a {noun}; got {text!r:.80}") from None
        if self.is_whole:
            whole_number(self.name, value, at_least=int(self.limits.get("at_least", -sys.maxsize)))
        else:
            number(self.name, value, **self.limits)
        return value


def describe(kind: type[Any]) -> str:
    """Return what a docstring says before its parameters, as Markdown."""
    text, _, _ = _docstring(kind).partition("\nParameters\n----------\n")
    return text.strip()


def arguments_of(kind: type[Any]) -> list[Argument]:
    """Return the arguments of a rule, an optimizer, a step, a discount or a requirement.

    Parameters
    ----------
    kind : type
        A dataclass. Its bounds are read from the calls in ``__post_init__`` that check them.
    """
    _, _, parameters = _docstring(kind).partition("\nParameters\n----------\n")
    meanings = dict(re.findall(r"^(\w+) : .*\n((?: {4}.*\n?)+)", parameters, re.MULTILINE))
    checks = _checks(kind)
    return [
        Argument(
            name=each.name,
            is_whole=str(each.type).startswith("int"),
            is_required=each.default is dataclasses.MISSING,
            default=None if each.default is dataclasses.MISSING else each.default,
            limits=_limits(kind, checks.get(each.name, [])),
            bounds=", ".join(_in_words(limit) for limit in checks.get(each.name, [])),
            meaning=" ".join(meanings.get(each.name, "").split()),
        )
        for each in dataclasses.fields(kind)
    ]


def _docstring(kind: type[Any]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").replace("``", "`")


def _checks(kind: type[Any]) -> dict[str, list[ast.keyword]]:
    """Return the keywords of the calls that check the arguments, by the argument."""
    checks = [vars(base)["__post_init__"] for base in kind.__mro__ if "__post_init__" in vars(base)]
    trees = [ast.parse(textwrap.dedent(inspect.getsource(check))) for check in checks]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        ast.literal_eval(call.args[0]): call.keywords
        for call in calls
        if ast.unparse(call.func) in (number.__name__, whole_number.__name__)
    }


def _limits(kind: type[Any], keywords: list[ast.keyword]) -> dict[str, float]:
    names = vars(sys.modules[kind.__module__])
    limits = {}
    for keyword in keywords:
        value = keyword.value
        known = names[value.id] if isinstance(value, ast.Name) else ast.literal_eval(value)
        if math.isfinite(known):
            limits[str(keyword.arg)] = known
    return limits


def _in_words(keyword: ast.keyword) -> str:
    value = ast.unparse(keyword.value)
    return f"{str(keyword.arg).replace('_', ' ')} {NAMED_BOUNDS.get(value, value)}"

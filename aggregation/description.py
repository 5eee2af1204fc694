"""What the arguments of rules, optimizers, steps and requirements are, for forms and reference pages."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections import defaultdict
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
    is_whole, is_text : bool
        Whether it is a whole number, or a text; otherwise it is a number.
    is_required : bool
    default : int, float, str or None
    limits : dict
        Some of ``above``, ``at_least``, ``below`` and ``at_most``, with numbers.
    bounds : str
        The limits in words, such as ``at least 0, below 0.5``.
    meaning : str
        From the docstring; may be empty.
    """

    name: str
    is_whole: bool
    is_text: bool
    is_required: bool
    default: Any
    limits: dict[str, float] = field(default_factory=dict)
    bounds: str = ""
    meaning: str = ""

    @property
    def noun(self) -> str:
        """What it is."""
        return "text" if self.is_text else "whole number" if self.is_whole else "number"

    def parse(self, text: str) -> int | float | str:
        """Return the value that was typed.

        Raises
        ------
        RuleError
            If it is no number, or out of bounds.
        """
        if self.is_text:
            return text
        try:
            value = int(text) if self.is_whole else float(text)
        except ValueError:
            raise RuleError(f"{self.name} must be a {self.noun}; got {text!r:.80}") from None
        if self.is_whole and "at_least" in self.limits:
            whole_number(self.name, value, at_least=int(self.limits["at_least"]))
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
            is_text=str(each.type).startswith("str"),
            is_required=each.default is dataclasses.MISSING,
            default=None if each.default is dataclasses.MISSING else each.default,
            limits=_limits(kind, checks.get(each.name, [])),
            bounds=", ".join(_in_words(kind, limit) for limit in checks.get(each.name, [])),
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
    found: dict[str, list[ast.keyword]] = defaultdict(list)
    for call in calls:
        if ast.unparse(call.func) in (number.__name__, whole_number.__name__):
            found[ast.literal_eval(call.args[0])] += call.keywords
    return found


def _limits(kind: type[Any], keywords: list[ast.keyword]) -> dict[str, float]:
    return {str(each.arg): _value(kind, each) for each in keywords}


def _value(kind: type[Any], keyword: ast.keyword) -> float:
    """Return the value of a bound, which may be a constant of the module or an expression."""
    expression = compile(ast.Expression(keyword.value), kind.__name__, "eval")
    value: float = eval(expression, vars(sys.modules[kind.__module__]))  # noqa: S307 - our own code
    return value


def _in_words(kind: type[Any], keyword: ast.keyword) -> str:
    value = _value(kind, keyword)
    digits = f"{int(value) if value == int(value) else value:,}"
    shown = NAMED_BOUNDS.get(ast.unparse(keyword.value), digits)
    return f"{str(keyword.arg).replace('_', ' ')} {shown}"

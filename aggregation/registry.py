"""Packages of which each module registers something: a new rule is one new file."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules


@cache
def import_modules(package: str) -> None:
    """Import every module of a package.

    Every model has a rule, so that rules are imported with their package. What few models use is imported
    when a name is looked up that is not registered yet: a cold start does not pay for it.
    """
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")

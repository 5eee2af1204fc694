"""Connectors by the names of their classes, so that settings can name them."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self


class Registered:
    """Base of a family of connectors; a concrete subclass is registered by its name, in any case.

    Each direct subclass of this class is a family of its own: `BaseAggConnector` and
    `BaseMetadataConnector` do not know each other's members.
    """

    #: The name of the family in its messages.
    family: ClassVar[str]
    _known: ClassVar[dict[str, type[Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Registered in cls.__bases__:
            cls._known = {}
        elif not inspect.isabstract(cls):
            cls._known[cls.__name__.lower()] = cls

    @classmethod
    def known(cls) -> list[str]:
        """Return the names of the members that are subclasses of this class."""
        return sorted(each.__name__ for each in cls._known.values() if issubclass(each, cls))

    @classmethod
    def _member(cls, name: str) -> type[Self]:
        member = cls._known.get(str(name).lower())
        if member is None or not issubclass(member, cls):
            raise ValueError(f"unknown {cls.family} {name!r}; known are {', '.join(cls.known())}")
        return member

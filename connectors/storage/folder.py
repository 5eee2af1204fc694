"""A folder of small objects: what the tasks of a distributed round leave for each other."""

from __future__ import annotations

from connectors.storage.port import Objects


class ObjectFolder:
    """The objects below a prefix.

    Parameters
    ----------
    objects : Objects
    location : str
        The prefix, with a slash at its end.
    """

    def __init__(self, objects: Objects, location: str) -> None:
        self._objects = objects
        self._location = location

    def read(self, name: str) -> bytes:
        """Return an object."""
        return self._objects.read(self._location + name)

    def write(self, name: str, data: bytes) -> None:
        """Store an object, in place of one of the same name."""
        sink = self._objects.sink(self._location + name, None)
        sink.write_part(1, data, last=True)
        sink.complete()

    def names(self) -> set[str]:
        """Return the names of the objects."""
        return {key.removeprefix(self._location) for key in self._keys()}

    def delete(self) -> None:
        """Delete the objects."""
        self._objects.remove_objects(self._keys())

    def _keys(self) -> list[str]:
        return [each.key for each in self._objects.listing(self._location)]

"""The names of the arrays in an npz archive."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import UpdateRejected, quoted


def name_problem(name: str) -> str | None:
    """Return why a member cannot have this name, or None if it can.

    Slashes are allowed, as in ``params/dense/kernel``, unless the name would be a path out of a directory
    into which other tools unpack it.
    """
    if "\\" in name or "\0" in name:
        return "the name of an array must not contain backslashes or zero bytes"
    if not name.endswith(".npy"):
        return "it is not an array, its name does not end in .npy"
    parts = name.removesuffix(".npy").split("/")
    if len(parts) > 1 and not {"", ".", ".."}.isdisjoint(parts):
        return "the name of an array must not be a path with empty parts, '.' or '..'"
    return None


def array_names(members: Iterable[str]) -> list[str]:
    """Return the names of the arrays in an archive with these members, as `numpy.load` has them.

    Raises
    ------
    UpdateRejected
        If a member cannot be an array, or if a name is ambiguous: numpy finds both ``x`` and ``x.npy``
        under the latter.
    """
    names: dict[str, None] = {}
    for member in members:
        name = member.removesuffix(".npy")
        problem = name_problem(member) or ("the name is used twice" if name in names else None)
        if problem:
            raise UpdateRejected(f"npz member {quoted(member)}: {problem}")
        names[name] = None
    for name in names:
        if f"{name}.npy" in names:
            raise UpdateRejected(
                f"npz member {quoted(f'{name}.npy')}: numpy has two arrays of this name"
            )
    return list(names)

"""The updates of hostile clients, made by an attack from what all clients trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregation.engine.arithmetic import is_floating
from laboratory.attacks import Attack, Differences, Scene
from laboratory.errors import BadArgument
from laboratory.models import Arrays


def hostile_updates(
    attack: Attack,
    parent: Arrays,
    honest: Sequence[Arrays],
    own: Sequence[Arrays],
    poisoned: Sequence[Arrays] | None,
) -> list[Arrays]:
    """Return what each hostile client sends; tensors of integers and booleans are its own.

    Parameters
    ----------
    attack : Attack
    parent : dict of str to array
    honest : sequence of dict
        The updates of the honest clients; at least one.
    own, poisoned : sequence of dict
        What the hostile clients trained, and trained on false data.

    Raises
    ------
    BadArgument
        If the tensors differ from those of the parent, or the attack returns another shape.
    """
    names = [name for name, array in parent.items() if is_floating(array.dtype)]
    scene = Scene(
        honest=_differences(honest, parent, names),
        own=_differences(own, parent, names),
        poisoned=None if poisoned is None else _differences(poisoned, parent, names),
    )
    sent = np.asarray(attack(scene), np.float64)
    if sent.shape != scene.own.shape:
        raise BadArgument(
            f"an attack returns a row for each hostile client, of shape {scene.own.shape}; "
            f"got {sent.shape}"
        )
    return [
        own_arrays | _weights(row, parent, names) for own_arrays, row in zip(own, sent, strict=True)
    ]


def _differences(updates: Sequence[Arrays], parent: Arrays, names: Sequence[str]) -> Differences:
    """Return the updates' differences from the parent, in float64, an update in each row."""
    size = sum(parent[name].size for name in names)
    rows = np.empty((len(updates), size))
    for row, update in zip(rows, updates, strict=True):
        start = 0
        for name in names:
            array = update.get(name)
            if array is None or array.shape != parent[name].shape:
                raise BadArgument(f"an attack needs updates with the parent's tensor {name!r}")
            stop = start + array.size
            row[start:stop] = array.reshape(-1).astype(np.float64)
            row[start:stop] -= parent[name].reshape(-1).astype(np.float64)
            start = stop
    return rows


def _weights(difference: Differences, parent: Arrays, names: Sequence[str]) -> Arrays:
    """Return the parent plus a difference, in the parent's dtypes."""
    weights, start = {}, 0
    for name in names:
        array = parent[name]
        stop = start + array.size
        moved = array.astype(np.float64) + difference[start:stop].reshape(array.shape)
        with np.errstate(over="ignore"):  # What overflows is rejected by the round.
            weights[name] = moved.astype(array.dtype)
        start = stop
    return weights

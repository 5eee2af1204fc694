"""The plot of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt  # In a notebook, importing this makes figures visible.
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laboratory.records import RoundRecord

#: Names of clients beside the plot; of more clients every few are named.
NAMED_CLIENTS = 25


def draw(
    title: str, metrics: Mapping[str, Sequence[float]], rounds: Sequence[RoundRecord]
) -> Figure:
    """Return a figure with the metrics and the weights of the clients by round."""
    figure, (curve, clients) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    plt.close(figure)  # Otherwise a notebook would show it twice.
    numbers = [each.number for each in rounds]
    for name, values in metrics.items():
        curve.plot(numbers, values, marker=".", label=name)
    if metrics:
        curve.legend()
    curve.set_xlabel("round")
    curve.set_title(title)
    curve.grid(alpha=0.3)
    _draw_weights(clients, rounds)
    return figure


def _draw_weights(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """Draw the share that each client has in each aggregate; what was not sent stays white."""
    clients = rounds[0].clients
    weights = np.array(
        [[c.weight if c.sent or c.used else np.nan for c in each.clients] for each in rounds]
    )
    last = len(rounds) + 0.5
    extent = (0.5, last, len(clients) - 0.5, -0.5)
    image = axes.imshow(weights.T, aspect="auto", cmap="viridis", vmin=0, extent=extent)
    step = max(1, -(-len(clients) // NAMED_CLIENTS))
    shown = range(0, len(clients), step)
    names = [f"{clients[n].client}{' (hostile)' if clients[n].hostile else ''}" for n in shown]
    axes.set_yticks(list(shown), names)
    axes.set_xlabel("round")
    axes.set_title("weight of each client")
    axes.figure.colorbar(image, ax=axes)

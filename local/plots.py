"""Draw the learning curve as an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from local.references import References
from local.script import Script

INK, GREY, BLUE = "#1f2933", "#7b8794", "#1f6feb"
GREEN, ORANGE, RED = "#15803d", "#c2570c", "#c81e1e"


def plot_learning_curve(
    path: Path,
    accuracies: Sequence[float],
    references: References,
    script: Script,
    spent: str = "",
) -> None:
    """Draw the accuracy of each round's aggregate, the references, and the faults of the script.

    Parameters
    ----------
    path : Path
        The PNG file to write.
    accuracies : sequence of float
        The accuracy on the test set after each round.
    references : References
    script : Script
    spent : str
        What a private model has spent, in words; empty for other models.
    """
    with mpl.rc_context({"font.size": 10.5, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
        axes = figure.subplots()
        _frame(axes, len(accuracies), lowest=min([*accuracies, references.mean_alone]))
        axes.set_title(
            f"{len(references.alone)} clients learn handwritten digits together"
            + (f"\n{spent}" if spent else ""),
            loc="left",
            weight="bold",
        )
        _reference(axes, references.central, "trained centrally", GREEN, x=0, align="left")
        _reference(axes, references.mean_alone, "clients alone, mean", ORANGE, x=1, align="right")
        _curve(axes, accuracies)
        _dropout(axes, script.last_round + 0.5, f"client {script.dropout + 1} drops out")
        hostile = f"client {script.hostile + 1}"
        for number, fault in (
            (script.wrong_shape_round, "wrong signature" if script.masked else "wrong shape"),
            (script.nan_round, "wrong signature" if script.masked else "NaN"),
        ):
            _rejection(axes, number, accuracies[number - 1], f"{fault} from\n{hostile} rejected")
        figure.savefig(path)


def _frame(axes: Axes, n_rounds: int, *, lowest: float) -> None:
    axes.set_xlim(0.5, n_rounds + 0.5)
    axes.set_ylim(max(0, lowest - 0.1), 1.01)
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on the test set")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=15))
    axes.grid(axis="y", color=GREY, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY)


def _curve(axes: Axes, accuracies: Sequence[float]) -> None:
    n_rounds = len(accuracies)
    axes.plot(
        range(1, n_rounds + 1), accuracies, color=BLUE, linewidth=2.2, marker="o", markersize=4.5
    )
    axes.annotate(
        f"federated  {accuracies[-1]:.3f}",
        (n_rounds, accuracies[-1]),
        xytext=(0, -18),
        textcoords="offset points",
        color=BLUE,
        weight="bold",
        ha="right",
    )


def _reference(
    axes: Axes, accuracy: float, label: str, color: str, *, x: float, align: str
) -> None:
    """Draw a dashed line with a label above one of its ends."""
    axes.axhline(accuracy, color=color, linewidth=1.4, linestyle=(0, (5, 3)))
    axes.annotate(
        f"{label}  {accuracy:.3f}",
        (x, accuracy),
        xycoords=("axes fraction", "data"),
        xytext=(4 if align == "left" else -4, 4),
        textcoords="offset points",
        color=color,
        ha=align,
    )


def _dropout(axes: Axes, x: float, label: str) -> None:
    axes.axvline(x, color=GREY, linewidth=1, linestyle=":")
    axes.annotate(
        label,
        (x, 0),
        xycoords=("data", "axes fraction"),
        xytext=(5, 6),
        textcoords="offset points",
        color=GREY,
        fontsize="small",
    )


def _rejection(axes: Axes, number: int, accuracy: float, label: str) -> None:
    """Draw a cross on the curve, where a round left out an invalid update."""
    axes.plot([number], [accuracy], color=RED, marker="X", markersize=9, markeredgecolor="white")
    axes.annotate(
        label,
        (number, accuracy),
        xytext=(0, -48),
        textcoords="offset points",
        color=RED,
        fontsize="small",
        ha="center",
        arrowprops={"arrowstyle": "-", "color": RED, "alpha": 0.4, "shrinkB": 6},
    )

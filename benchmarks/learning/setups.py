"""The set-ups that are compared: those of this project, and the strategies of Flower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aggregation.optimizers import create_optimizer
from aggregation.pre_aggregation import build_rule

#: Hostile clients that are expected: the only thing that an operator must estimate.
F = 2


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A way to aggregate.

    Parameters
    ----------
    rule, arguments, steps
        The rule, its arguments and the steps before it.
    optimizer, optimizer_arguments
        The server optimizer.
    flower : str
        The strategy of Flower that aggregates instead; empty for this project.
    """

    rule: str = "weighted_mean"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    optimizer: str = "none"
    optimizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    flower: str = ""

    @property
    def name(self) -> str:
        """The name in the table."""
        if self.flower:
            return f"Flower {self.flower}"
        rule = build_rule(self.rule, self.arguments, self.steps)
        optimizer = create_optimizer(self.optimizer, self.optimizer_arguments)
        name = rule.name + _shown(self.arguments)
        return (
            f"{name}, {optimizer.name}{_shown(self.optimizer_arguments)}"
            if optimizer.takes_steps
            else name
        )


def _shown(arguments: Mapping[str, Any]) -> str:
    if not arguments:
        return ""
    return "(" + ", ".join(f"{name}={value}" for name, value in arguments.items()) + ")"


def robust(rule: str, *steps: str, **arguments: Any) -> Setup:
    """Return a set-up without an optimizer."""
    return Setup(rule=rule, arguments=arguments, steps=steps)


MOMENTUM = {"beta": 0.5}

#: The set-up that the guide recommends. It was chosen on the seeds `TUNING`, not on those that judge it.
RECOMMENDED = Setup(
    rule="history_filter",
    arguments={"f": F},
    steps=("normalize",),
    optimizer="fedavgm",
    optimizer_arguments=MOMENTUM,
)
TUNING = range(101, 109)
JUDGING = range(1, 6)

OURS = (
    Setup(),
    Setup(optimizer="sgd", optimizer_arguments={"eta": 1.5}),
    Setup(optimizer="fedavgm", optimizer_arguments=MOMENTUM),
    Setup(optimizer="fedadagrad", optimizer_arguments={"eta": 0.1, "tau": 0.01}),
    Setup(optimizer="fedadam", optimizer_arguments={"eta": 0.1, "tau": 0.01}),
    Setup(optimizer="fedyogi", optimizer_arguments={"eta": 0.1, "tau": 0.01}),
    robust("coordinate_median"),
    robust("trimmed_mean", f=F),
    robust("krum", f=F),
    robust("multi_krum", f=F),
    robust("bulyan", f=1),
    robust("geometric_median"),
    robust("norm_clipped_mean", max_norm=2.0),
    robust("norm_filtered_mean"),
    robust("centered_clipping"),
    robust("spectral_filter", f=F),
    robust("unweighted_mean", f"arc(f={F})"),
    robust("geometric_median", "bucketing(s=2)"),
    robust("trimmed_mean", f"nnm(f={F})", f=F),
    robust("multi_krum", f"nnm(f={F})", f=F),
    robust("geometric_median", f"nnm(f={F})"),
    robust("trimmed_mean", f"arc(f={F})", f"nnm(f={F})", f=F),
    robust("geometric_median", f"arc(f={F})", f"nnm(f={F})"),
    robust("geometric_median", "normalize", f"nnm(f={F})"),
    robust("spectral_filter", "normalize", f=F),
    Setup(
        rule="spectral_filter",
        arguments={"f": F},
        steps=("normalize",),
        optimizer="fedavgm",
        optimizer_arguments={"beta": 0.8, "eta": 0.7},
    ),
    robust("history_filter", f=F),
    robust("history_filter", "normalize", f=F),
    RECOMMENDED,
)

#: Strategies of Flower, with what the same operator would set; see `flower.py`.
FLOWER = tuple(
    Setup(flower=name)
    for name in (
        "FedAvg",
        "FedAvgM",
        "FedAdagrad",
        "FedAdam",
        "FedYogi",
        "FedMedian",
        "FedTrimmedAvg",
        "Krum",
        "Bulyan",
    )
)

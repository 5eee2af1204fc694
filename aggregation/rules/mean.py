"""The means."""

from __future__ import annotations

from dataclasses import dataclass

from aggregation.rules.base import LinearRule, Selection, Statistics, register


@register
@dataclass(frozen=True)
class WeightedMean(LinearRule):
    """Federated averaging: the mean of the updates, weighted by their numbers of examples.

    ``w = sum_k n_k w_k / sum_k n_k``. McMahan et al., *Communication-Efficient Learning of Deep
    Networks from Decentralized Data*, AISTATS 2017, algorithm 1.

    Withstands no hostile update: one can move the result as far as it likes.
    """

    name = "weighted_mean"
    robust = False
    weighs_by_examples = True

    def select(self, statistics: Statistics) -> Selection:
        return Selection.weighted(statistics.num_examples)


@register
@dataclass(frozen=True)
class UnweightedMean(LinearRule):
    """The mean of the updates, each with the same weight.

    The aliases are the names it had in the system whose interface this project takes over.

    Withstands no hostile update: one can move the result as far as it likes.
    """

    name = "unweighted_mean"
    aliases = ("average_layers", "avg_values_if_data")
    robust = False

    def select(self, statistics: Statistics) -> Selection:
        return Selection.equal(range(len(statistics.num_examples)))

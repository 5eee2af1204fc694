"""The means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


@register
@dataclass(frozen=True)
class NormalizedMean(LinearRule):
    """FedNova: the weighted mean of the differences from the parent, each divided by its number of steps.

    ``parent + tau sum_k p_k d_k / tau_k`` with ``p_k = n_k / sum n``, ``tau_k`` the steps of client ``k``,
    and ``tau = sum_k p_k tau_k``. Wang et al., *Tackling the Objective Inconsistency Problem in
    Heterogeneous Federated Optimization*, NeurIPS 2020 (arXiv 2007.07481), section 5, with the weights
    ``w_k = p_k`` and for clients that train by plain SGD, where the norm of ``a_k`` is ``tau_k``. With
    equal numbers of steps it is `weighted_mean`; otherwise a client that takes more steps pulls no
    harder than the others.

    Withstands no hostile update: one can move the result as far as it likes.
    """

    name = "normalized_mean"
    robust = False
    aliases = ("fednova",)
    weighs_by_examples = True
    needs_steps = True
    on_differences = True

    def select(self, statistics: Statistics) -> Selection:
        counts, steps = statistics.num_examples, statistics.steps
        total = float(counts.sum())
        effective_steps = float(np.sum(counts * steps)) / total
        return Selection.weighted(counts * (effective_steps / steps), total=total)

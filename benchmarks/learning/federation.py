"""Federations that learn the digits: all runs of one seed advance together, round by round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aggregation
from aggregation.counts import capped_examples, default_cap
from aggregation.engine import Resources
from aggregation.optimizers import create_optimizer
from aggregation.pre_aggregation import build_rule
from benchmarks.learning.network import (
    CLASSES,
    Weights,
    accuracies,
    initial_weights,
    train,
)
from benchmarks.learning.setups import Setup
from laboratory.attacks import ATTACKS, Scene
from local.dataset import Digits, Examples, deal_digits

CLIENTS, HOSTILE, ABSENT, ROUNDS, CONCENTRATION = 10, 2, 2, 15, 0.3

_ONE_THREAD = Resources(readers=1, workers=1)

#: Without an attack.
NONE = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One federation.

    Parameters
    ----------
    setup : Setup
    attack : str
        A key of `ATTACKS`. With `NONE`, the clients that would be hostile are honest.
    absent : bool
        Whether two honest clients never send an update.
    only_honest : bool
        Whether the clients that would be hostile send nothing: the reference.
    """

    setup: Setup
    attack: str = NONE
    absent: bool = False
    only_honest: bool = False

    @property
    def honest(self) -> list[int]:
        """The numbers of the honest clients that take part."""
        present = CLIENTS - HOSTILE - (ABSENT if self.absent else 0)
        suspects = [] if self.attack or self.only_honest else HOSTILE_CLIENTS
        return [*range(present), *suspects]

    @property
    def hostile(self) -> list[int]:
        """The numbers of the hostile clients."""
        return HOSTILE_CLIENTS if self.attack else []


HOSTILE_CLIENTS = list(range(CLIENTS - HOSTILE, CLIENTS))


class Federation:
    """The federations of one seed.

    Parameters
    ----------
    runs : sequence of Run
    seed : int
        Of the division of the digits, the initial weights and the order of the examples.
    flower : Popen, optional
        Runs `flower.py`, for the runs whose set-up names one of its strategies.
    """

    def __init__(self, runs: Sequence[Run], seed: int, flower: Popen[bytes] | None = None) -> None:
        self.runs = runs
        self._rng = np.random.default_rng(seed)
        self._digits: Digits = deal_digits(CLIENTS, self._rng, concentration=CONCENTRATION)
        self._initial = initial_weights(self._rng)
        self._weights = np.repeat(self._initial[None], len(runs), axis=0)
        self._states: dict[int, Any] = {}
        self._directions: dict[int, NDArray[np.float64]] = {}
        self._flower = flower

    def learn(self) -> NDArray[np.float64]:
        """Return the accuracy of each run after the last round."""
        for number in range(1, ROUNDS + 1):
            sent, poisoned = self._local_training()
            for index, run in enumerate(self.runs):
                self._round(number, index, run, sent, poisoned)
        return accuracies(self._weights, self._digits.test)

    def central(self) -> float:
        """Return the accuracy of one network that is trained on all examples for as many epochs."""
        weights, pooled = self._initial[None], self._digits.pooled()
        for _ in range(ROUNDS):
            weights = train(weights, pooled, self._rng.permutation(len(pooled)))
        return float(accuracies(weights, self._digits.test)[0])

    def _local_training(self) -> tuple[Weights, Weights]:
        """Return the differences of each client in each run, by true and by flipped labels."""
        shape = (CLIENTS, *self._weights.shape)
        sent, poisoned = np.zeros((2, *shape), np.float32)
        for client, examples in enumerate(self._digits.training):
            order = self._rng.permutation(len(examples))
            rows = [i for i, run in enumerate(self.runs) if client in run.honest + run.hostile]
            base = self._weights[rows]
            sent[client, rows] = train(base, examples, order) - base
            if client in HOSTILE_CLIENTS:
                rows = [i for i, run in enumerate(self.runs) if run.attack == "labels"]
                base = self._weights[rows]
                flipped = Examples(examples.features, CLASSES - 1 - examples.labels)
                if rows:
                    poisoned[client, rows] = train(base, flipped, order) - base
        return sent, poisoned

    def _round(self, number: int, index: int, run: Run, sent: Weights, poisoned: Weights) -> None:
        parent = self._weights[index]
        updates = sent[run.honest, index].astype(np.float64)
        if run.attack:
            scene = Scene(
                honest=updates,
                own=sent[run.hostile, index].astype(np.float64),
                poisoned=poisoned[run.hostile, index].astype(np.float64),
            )
            updates = np.concatenate([updates, ATTACKS[run.attack](scene)])
        counts = [len(self._digits.training[client]) for client in run.honest + run.hostile]
        whole = (parent + updates).astype(np.float32)
        if run.setup.flower:
            self._weights[index] = self._by_flower(number, index, run.setup, whole, counts)
        else:
            self._weights[index] = self._by_us(number, index, run.setup, whole, counts)

    def _by_us(
        self, number: int, index: int, setup: Setup, whole: Weights, counts: list[int]
    ) -> Weights:
        """Return the aggregate as a model of this project computes it, with the default cap of counts."""
        parent = self._weights[index]
        rule = build_rule(setup.rule, setup.arguments, setup.steps)
        robust = rule.max_hostile(len(counts)) > 0
        cap = default_cap(counts, robust=robust)
        past = self._directions.setdefault(index, np.zeros(len(counts)))
        answer = aggregation.aggregate(
            setup.rule,
            list(whole),
            [capped_examples(count, cap) for count in counts],
            parent,
            pre_aggregation=setup.steps,
            seed=f"{number:016x}",
            directions=past,
            return_info=rule.needs_directions,
            resources=_ONE_THREAD,
            **setup.arguments,
        )
        result, info = answer if rule.needs_directions else (answer, None)
        if info and info.cosines:
            past += [cosine or 0.0 for cosine in info.cosines]
        optimizer = create_optimizer(setup.optimizer, setup.optimizer_arguments)
        start = np.tile(optimizer.initial_state, (len(parent), 1))
        gradient = result.astype(np.float64) - parent
        step, self._states[index] = optimizer.step(gradient, self._states.get(index, start))
        return np.asarray(parent + step, np.float32)

    def _by_flower(
        self, number: int, index: int, setup: Setup, whole: Weights, counts: list[int]
    ) -> Weights:
        """Return the aggregate as one of Flower's strategies computes it."""
        flower = self._flower
        assert flower is not None
        assert flower.stdin is not None
        assert flower.stdout is not None
        parent = self._weights[index]
        request = {
            "run": index,
            "round": number,
            "strategy": setup.flower,
            "counts": counts,
            "width": len(parent),
        }
        for part in (json.dumps(request).encode() + b"\n", whole.tobytes(), parent.tobytes()):
            flower.stdin.write(part)
        flower.stdin.flush()
        return np.frombuffer(flower.stdout.read(parent.nbytes), np.float32)


def start_flower(python: str) -> Popen[bytes]:
    """Start Flower's strategies in an interpreter that has them."""
    command = [python, "-m", "benchmarks.learning.flower"]
    return Popen(command, stdin=PIPE, stdout=PIPE)

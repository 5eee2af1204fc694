"""The simulated clients: who is present, what each trains, and when its update arrives."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from laboratory.arguments import TRAINING, Hostility, OfClient, random_numbers, whole
from laboratory.hostile import hostile_updates
from laboratory.models import Arrays, ModelKind, arrays_of
from laboratory.updates import Submitted, Update, as_update

Train = Callable[[Any, Any, np.random.Generator], Any]


class Participants:
    """The clients of a simulation.

    Parameters
    ----------
    train, seed, delay
        As for `laboratory.simulate`.
    data : dict
        The data of each client by its name.
    kind : ModelKind, optional
        None until the first client has returned a model.
    enemies : Hostility
    drops_out : callable
        Returns whether a client misses a round, given the round and the client's position.

    Attributes
    ----------
    names : list
        Of the clients, by position.
    """

    def __init__(
        self,
        *,
        train: Train,
        data: Mapping[Hashable, Any],
        kind: ModelKind | None,
        seed: int,
        enemies: Hostility,
        drops_out: Callable[[int, int], bool],
        delay: OfClient | None,
    ) -> None:
        self._train = train
        self._data = data
        self.names = list(data)
        self._kind = kind
        self._seed = seed
        self._enemies = enemies
        self._drops_out = drops_out
        self._delay = delay
        #: Updates with the rounds in which they arrive, by the clients' positions.
        self._in_transit: dict[int, tuple[int, Submitted]] = {}

    def is_hostile(self, position: int) -> bool:
        """Return whether a client is hostile."""
        return self.names[position] in self._enemies.clients

    def model(self, weights: Arrays | None) -> Any:
        """Return a copy of weights, of the kind that training takes; None without weights."""
        return self._kind.model(weights) if self._kind and weights is not None else None

    def bases_in_transit(self) -> set[str | None]:
        """Return the locations of the weights from which updates were trained that arrive later."""
        return {submitted.base for _, submitted in self._in_transit.values()}

    def train(
        self, number: int, weights: Arrays | None, base: str | None, base_number: int
    ) -> None:
        """Let the clients train that are present and have no update in transit.

        Parameters
        ----------
        number : int
            Of the round.
        weights, base, base_number
            The latest weights, their location and the number of the aggregate.
        """
        present = [
            position
            for position in range(len(self.names))
            if position not in self._in_transit and not self._drops_out(number, position)
        ]
        trained = {position: self._trained(number, position, weights) for position in present}
        if weights is not None:
            self._attack(number, weights, trained)
        for position, (update, arrays) in trained.items():
            submitted = Submitted(
                client=position,
                arrays=arrays,
                num_examples=update.num_examples,
                num_steps=update.num_steps,
                base=base,
                base_number=base_number,
                metrics=update.metrics,
            )
            self._in_transit[position] = number + self._rounds_late(number, position), submitted

    def arrivals(self, number: int) -> dict[int, Submitted]:
        """Return the updates that arrive in a round, by the clients' positions."""
        arrived = {
            position: submitted
            for position, (arrival, submitted) in self._in_transit.items()
            if arrival <= number
        }
        for position in arrived:
            del self._in_transit[position]
        return arrived

    def _trained(
        self,
        number: int,
        position: int,
        weights: Arrays | None,
        poison: Callable[[Any], Any] | None = None,
    ) -> tuple[Update, Arrays]:
        name = self.names[position]
        data = self._data[name]
        with _located(number, name):
            rng = random_numbers(self._seed, TRAINING, number, position)
            returned = self._train(self.model(weights), poison(data) if poison else data, rng)
            update = as_update(returned)
            arrays = arrays_of(update.weights)
        if self._kind is None:
            self._kind = ModelKind(update.weights)
        return update, arrays

    def _attack(
        self, number: int, weights: Arrays, trained: dict[int, tuple[Update, Arrays]]
    ) -> None:
        """Replace what hostile clients trained by what the attack makes of it."""
        enemies = self._enemies
        hostile = [position for position in trained if self.is_hostile(position)]
        honest = [arrays for position, (_, arrays) in trained.items() if position not in hostile]
        if enemies.attack is None or not hostile or not honest:
            return
        poisoned = None
        if enemies.poison:
            poisoned = [
                self._trained(number, position, weights, enemies.poison)[1] for position in hostile
            ]
        own = [trained[position][1] for position in hostile]
        sent = hostile_updates(enemies.attack, weights, honest, own, poisoned)
        for position, arrays in zip(hostile, sent, strict=True):
            trained[position] = trained[position][0], arrays

    def _rounds_late(self, number: int, position: int) -> int:
        if self._delay is None:
            return 0
        return whole("what delay returns", self._delay(number, self.names[position]), 0)


@contextmanager
def _located(number: int, client: Hashable) -> Iterator[None]:
    """Say in which round and for which client an error was raised."""
    try:
        yield
    except Exception as error:
        error.add_note(f"In round {number} of the simulation, client {client!r}.")
        raise

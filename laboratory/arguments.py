"""The arguments of a simulation, checked before it starts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from aggregation.arguments import parse_notation
from aggregation.errors import RuleError
from aggregation.model_settings import ModelSettings
from laboratory.attacks import ATTACKS, Attack, label_flip
from laboratory.errors import BadArgument

#: Whether a client drops out of a round, or how many rounds later its update arrives.
OfClient = Callable[[int, Hashable], Any]


def notation(name: str, value: Any, example: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of a notation such as ``krum(f=2)``.

    Raises
    ------
    BadArgument
    """
    try:
        found = parse_notation(value)
    except RuleError as error:
        raise BadArgument(f"{name}: {error}") from error
    if found is None:
        raise BadArgument(f"{name} is written as {example!r}; got {value!r:.80}")
    return found


def model_settings(
    *,
    rule: str,
    optimizer: str,
    pre_aggregation: Sequence[str],
    tensor_policies: Sequence[Sequence[str]],
    max_num_examples: int | None,
    staleness: str | None,
    furthest_base: int | None,
    requirement: str | None,
    differential_privacy: Mapping[str, Any] | None,
) -> ModelSettings:
    """Return the settings of the simulated model.

    Raises
    ------
    BadArgument
    """
    aggregator, aggregator_args = notation("rule", rule, "krum(f=2)")
    server_optimizer, optimizer_args = notation("optimizer", optimizer, "fedavgm(beta=0.5)")
    late: dict[str, Any] = {}
    if staleness is not None:
        discount = notation("staleness", staleness, "polynomial(a=0.5)")
        late = dict(zip(("staleness", "staleness_args"), discount, strict=True))
    starts: dict[str, Any] = {}
    if requirement is not None:
        condition = notation("requirement", requirement, "require_fraction(f=0.8)")
        starts = dict(zip(("requirement", "requirement_args"), condition, strict=True))
    try:
        return ModelSettings(
            aggregator=aggregator,
            aggregator_args=aggregator_args,
            pre_aggregation=pre_aggregation,
            server_optimizer=server_optimizer,
            server_optimizer_args=optimizer_args,
            tensor_policies=tensor_policies,
            max_num_examples=max_num_examples,
            furthest_base_agg=furthest_base,
            differential_privacy=differential_privacy,
            **late,
            **starts,
        )
    except RuleError as error:
        raise BadArgument(str(error)) from error


def check_settings_fit(settings: ModelSettings, clients: int, *, has_initial: bool) -> None:
    """Refuse settings with which no round could publish an aggregate.

    Raises
    ------
    BadArgument
    """
    rule = settings.rule()
    if rule.min_updates > clients:
        raise BadArgument(
            f"{rule.name} needs at least {rule.min_updates} updates, and there are {clients} clients"
        )
    if not has_initial and (rule.on_differences or settings.policies().needs_parent):
        needing = rule.name if rule.on_differences else "a tensor that clients do not send"
        raise BadArgument(f"{needing} needs a parent to start from: pass the model as initial=")


def whole(name: str, value: Any, at_least: int) -> int:
    """Return a whole number; raise `BadArgument` if it is none."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise BadArgument(f"{name} must be a whole number, at least {at_least}; got {value!r:.80}")
    return int(value)


#: How a simulation calls the functions of its caller.
_CALLS = {
    "train": "train(model, data, rng)",
    "evaluate": "evaluate(model)",
    "delay": "delay(round, client)",
    "poison": "poison(data)",
}


def check_functions(*, train: Any, **optional: Any) -> None:
    """Raise `BadArgument` unless ``train`` can be called, and the others can or are None."""
    given = {name: value for name, value in optional.items() if value is not None}
    for name, value in {"train": train, **given}.items():
        if not callable(value):
            raise BadArgument(
                f"{name} must be a function, called as {_CALLS[name]}; got {value!r:.80}"
            )


def client_data(clients: Any) -> dict[Hashable, Any]:
    """Return the data of each client by its name; those of a sequence are numbered from 0.

    Raises
    ------
    BadArgument
    """
    if isinstance(clients, Mapping):
        named = dict(clients)
    elif isinstance(clients, str | bytes) or not hasattr(clients, "__iter__"):
        raise BadArgument(
            "clients must be a sequence with the data of each client, or a mapping of names to data; "
            f"got {clients!r:.80}"
        )
    else:
        named = dict(enumerate(clients))
    if not named:
        raise BadArgument("clients is empty: a simulation needs at least one client")
    return named


@dataclass(frozen=True, kw_only=True)
class Hostility:
    """Who is hostile, and what they do.

    Parameters
    ----------
    name : str
        Of the attack; empty if there is none.
    attack : Attack, optional
    clients : frozenset
        The names of the hostile clients.
    poison : callable, optional
        Returns a client's data with false labels.
    """

    name: str = ""
    attack: Attack | None = None
    clients: frozenset[Hashable] = frozenset()
    poison: Callable[[Any], Any] | None = None


def hostility(
    attack: Any, hostile: Any, poison: Any, clients: Sequence[Hashable], *, has_initial: bool
) -> Hostility:
    """Return who is hostile in a simulation.

    Raises
    ------
    BadArgument
    """
    if attack is None:
        if hostile is not None or poison is not None:
            raise BadArgument("hostile and poison need an attack: name it as attack=")
        return Hostility()
    found = ATTACKS.get(attack) if isinstance(attack, str) else attack
    if not callable(found):
        known = ", ".join(map(repr, ATTACKS))
        raise BadArgument(f"unknown attack {attack!r:.80}; known are {known}, or pass a function")
    if hostile is None:
        raise BadArgument("an attack needs hostile=: how many clients are hostile, or which")
    if poison is None and found is label_flip:
        raise BadArgument(
            "the attack 'labels' needs poison=: a function that returns a client's data with false labels"
        )
    if not has_initial:
        raise BadArgument("an attack is a difference from the parent: pass the model as initial=")
    return Hostility(
        name=str(shown(attack)),
        attack=found,
        clients=_hostile_clients(hostile, clients),
        poison=poison,
    )


def _hostile_clients(hostile: Any, clients: Sequence[Hashable]) -> frozenset[Hashable]:
    """Return the hostile clients: the last ones, if only their number is given."""
    if isinstance(hostile, Integral) and not isinstance(hostile, bool):
        if not 1 <= int(hostile) < len(clients):
            raise BadArgument(
                f"hostile must be from 1 to {len(clients) - 1} of {len(clients)} clients; got {hostile}"
            )
        return frozenset(clients[-int(hostile) :])
    if isinstance(hostile, str | bytes) or not hasattr(hostile, "__iter__"):
        raise BadArgument(
            f"hostile must be a number of clients, or their names; got {hostile!r:.80}"
        )
    named = list(hostile)
    unknown = [name for name in named if name not in clients]
    if unknown:
        raise BadArgument(f"hostile names {unknown[0]!r:.80}, which is not one of the clients")
    if not 1 <= len(set(named)) < len(clients):
        raise BadArgument("hostile must name some of the clients, and not all of them")
    return frozenset(named)


def drop_outs(drop_out: Any, seed: int, clients: Sequence[Hashable]) -> Callable[[int, int], bool]:
    """Return a function of the round and a client's position that says whether the client drops out.

    A probability decides by the seed, the round and the position alone, so that simulations with other
    rules see the same clients.

    Raises
    ------
    BadArgument
    """
    if drop_out is None:
        return lambda number, position: False
    if callable(drop_out):
        return lambda number, position: bool(drop_out(number, clients[position]))
    if isinstance(drop_out, bool) or not isinstance(drop_out, Real) or not 0 <= float(drop_out) < 1:
        raise BadArgument(
            "drop_out must be a probability, at least 0 and below 1, or a function of round and client; "
            f"got {drop_out!r:.80}"
        )
    probability = float(drop_out)
    return lambda number, position: bool(
        random_numbers(seed, DROP_OUTS, number, position).random() < probability
    )


def shown(value: Any) -> Any:
    """Return an argument as JSON-able data: a function by its name."""
    if isinstance(value, Real):
        return float(value)
    return getattr(value, "__name__", repr(value)) if callable(value) else value


#: What random numbers are for.
DROP_OUTS, STEPS, TRAINING, NOISE = range(4)


def random_numbers(seed: int, *key: int) -> np.random.Generator:
    """Return the random numbers for one purpose; those of other keys are independent of them."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))

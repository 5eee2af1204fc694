"""Simulate a federation in one process, with the round and the engine of the function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aggregation.engine import Resources
from aggregation.optimizers import NO_OPTIMIZER
from aggregation.round import run_round
from laboratory import arguments
from laboratory.arguments import OfClient
from laboratory.connector import MODEL_ID, LaboratoryConnector
from laboratory.history import History
from laboratory.models import ModelKind, arrays_of
from laboratory.participants import Participants, Train
from laboratory.records import ClientRecord, RoundRecord
from laboratory.updates import Submitted, as_metrics

#: Training is sequential, and models are mostly small: further threads would only wait for each other.
ONE_THREAD = Resources(readers=1, workers=1)


def simulate(
    train: Train,
    clients: Sequence[Any] | Mapping[Any, Any],
    *,
    rounds: int,
    seed: int,
    rule: str = "weighted_mean",
    optimizer: str = NO_OPTIMIZER.name,
    attack: str | Callable[..., Any] | None = None,
    drop_out: float | OfClient | None = None,
    initial: Any = None,
    evaluate: Callable[[Any], Any] | None = None,
    hostile: int | Sequence[Any] | None = None,
    poison: Callable[[Any], Any] | None = None,
    delay: OfClient | None = None,
    pre_aggregation: Sequence[str] = (),
    tensor_policies: Sequence[Sequence[str]] = (),
    max_num_examples: int | None = None,
    staleness: str | None = None,
    furthest_base: int | None = None,
    requirement: str | None = None,
    differential_privacy: Mapping[str, Any] | None = None,
    resources: Resources = ONE_THREAD,
    progress: bool | None = None,
) -> History:
    """Train a federated model on simulated clients.

    In each round, every client that is present trains from the latest weights, and then the round of the
    function runs: it claims the updates, rejects bad ones, combines and publishes.

    Parameters
    ----------
    train : callable
        ``train(model, data, rng)`` returns the trained model, ``(model, num_examples)`` or an `Update`.
        ``model`` is a copy of the kind of ``initial``, which it may change: numpy arrays, a module or
        ``state_dict`` of PyTorch, a pytree of JAX, an estimator of scikit-learn. ``rng`` is a
        `numpy.random.Generator` that the seed, the round and the client determine.
    clients : sequence or mapping
        The data of each client, passed to ``train``; or data by name.
    rounds : int
    seed : int
        With the same seed, and a ``train`` that draws from ``rng`` only, a simulation repeats exactly.
    rule, optimizer : str
        Such as ``"trimmed_mean(f=2)"`` and ``"fedavgm(beta=0.5)"``.
    attack : str or callable, optional
        A name in `laboratory.ATTACKS`, or a function of a `Scene` that returns what each hostile client
        sends, as differences from the parent.
    drop_out : float or callable, optional
        The probability with which a client misses a round, or a function of round and client.
    initial : model, optional
        Where training starts. Without it, ``train`` gets None until the first aggregate is published.
    evaluate : callable, optional
        ``evaluate(model)`` returns a number, or numbers by name, for the latest weights of each round.
    hostile : int or sequence, optional
        How many of the clients are hostile (the last ones), or their names.
    poison : callable, optional
        ``poison(data)`` returns a client's data with false labels, for attacks that train on it.
    delay : callable, optional
        ``delay(round, client)`` returns how many rounds later the update arrives. The client trains
        nothing else in the meantime.
    pre_aggregation : sequence of str
        Steps before the rule: ``["normalize", "nnm(f=2)"]``.
    tensor_policies : sequence of (glob, policy)
        See `aggregation.policies`.
    max_num_examples : int, optional
        An update counts at most this many; by default, a multiple of the median of its round.
    staleness : str, optional
        The discount of late updates: ``"polynomial(a=0.5)"``; needs ``furthest_base``.
    furthest_base : int, optional
        An update may be based on one of this many latest aggregates.
    requirement : str, optional
        When a round may start: ``"require_fraction(f=0.8)"``; by default with what there is.
    differential_privacy : mapping, optional
        The arguments of `aggregation.privacy.settings.DifferentialPrivacy`, for ``unweighted_mean``. The
        noise follows from the seed: it has the distribution of a federation's, but protects nobody.
    resources : Resources
        Of the engine; the result does not depend on them.
    progress : bool, optional
        Whether a progress bar is shown; by default, on a terminal.

    Returns
    -------
    History

    Raises
    ------
    BadArgument
        If an argument cannot be used, or what a function returned. The message says what is expected.
    """
    data = arguments.client_data(clients)
    names, has_initial = list(data), initial is not None
    settings = arguments.model_settings(
        rule=rule,
        optimizer=optimizer,
        pre_aggregation=pre_aggregation,
        tensor_policies=tensor_policies,
        max_num_examples=max_num_examples,
        staleness=staleness,
        furthest_base=furthest_base,
        requirement=requirement,
        differential_privacy=differential_privacy,
    )
    arguments.check_settings_fit(settings, len(data), has_initial=has_initial)
    arguments.check_functions(train=train, evaluate=evaluate, delay=delay, poison=poison)
    rounds, seed = arguments.whole("rounds", rounds, 1), arguments.whole("seed", seed, 0)
    enemies = arguments.hostility(attack, hostile, poison, names, has_initial=has_initial)
    participants = Participants(
        train=train,
        data=data,
        kind=ModelKind(initial) if has_initial else None,
        seed=seed,
        enemies=enemies,
        drops_out=arguments.drop_outs(drop_out, seed, names),
        delay=delay,
    )
    connector = LaboratoryConnector(
        settings, len(data), arrays_of(initial) if has_initial else None, seed
    )
    simulation = Simulation(participants, connector, evaluate, resources)
    records = tuple(simulation.run(rounds, settings.rule().name, shown=progress))
    about: dict[str, Any] = {"clients": len(data), "rounds": rounds, "seed": seed}
    about |= {"attack": enemies.name, "hostile": len(enemies.clients)}
    about["drop_out"] = arguments.shown(drop_out)
    weights = participants.model(connector.weights)
    return History(settings=settings, simulation=about, rounds=records, weights=weights)


class Simulation:
    """Runs the rounds of a simulation.

    Parameters
    ----------
    participants : Participants
    connector : LaboratoryConnector
    evaluate, resources
        As for `simulate`.
    """

    def __init__(
        self,
        participants: Participants,
        connector: LaboratoryConnector,
        evaluate: Callable[[Any], Any] | None,
        resources: Resources,
    ) -> None:
        self._participants = participants
        self._connector = connector
        self._evaluate = evaluate
        self._resources = resources

    def run(self, rounds: int, title: str, *, shown: bool | None) -> Iterator[RoundRecord]:
        """Run the rounds, with a progress bar on a terminal."""
        from tqdm import tqdm

        hidden = None if shown is None else not shown  # tqdm's None hides it without a terminal.
        with tqdm(total=rounds, desc=title, unit="round", disable=hidden) as bar:
            for number in range(1, rounds + 1):
                record = self._round(number)
                bar.set_postfix({name: f"{value:.4g}" for name, value in record.metrics.items()})
                bar.update()
                yield record

    def _round(self, number: int) -> RoundRecord:
        participants, connector = self._participants, self._connector
        participants.train(number, connector.weights, connector.parent, connector.number)
        arrived = participants.arrivals(number)
        for submitted in arrived.values():
            connector.submit(submitted)
        answer = run_round(connector, MODEL_ID, resources=self._resources)
        connector.keep_bases(participants.bases_in_transit())
        return RoundRecord(
            number=number,
            status=answer.status.value,
            reason=answer.reason,
            metrics=self._metrics(),
            epsilon=connector.epsilon,
            clients=tuple(
                self._record(position, arrived.get(position))
                for position in range(len(participants.names))
            ),
        )

    def _metrics(self) -> dict[str, float]:
        model = self._participants.model(self._connector.weights)
        if self._evaluate is None or model is None:
            return {}
        return as_metrics(self._evaluate(model), "what evaluate returns")

    def _record(self, position: int, arrived: Submitted | None) -> ClientRecord:
        outcome = self._connector.outcome
        return ClientRecord(
            client=self._participants.names[position],
            hostile=self._participants.is_hostile(position),
            sent=arrived is not None,
            used=position in outcome.weights,
            weight=outcome.weights.get(position, 0.0),
            norm=outcome.norms.get(position),
            contribution=outcome.contributions.get(position),
            rejection=outcome.rejected.get(position, ""),
            num_examples=arrived.num_examples if arrived else 0,
            rounds_late=outcome.rounds_late.get(position, 0),
            metrics=arrived.metrics if arrived else {},
        )

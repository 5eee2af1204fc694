"""The outcome of a simulation: its settings, a record for each round, and the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregation.errors import UpdateRejected
from aggregation.formats import format_of
from aggregation.model_settings import KEY, ModelSettings
from federated_client.errors import BadWeights
from federated_client.weights import encode
from laboratory.errors import BadArgument
from laboratory.models import arrays_of
from laboratory.records import RoundRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """The outcome of a simulation.

    Parameters
    ----------
    settings : ModelSettings
        Of the federated model: what `manage.py create_model --from` takes.
    simulation : mapping
        How it was simulated: clients, rounds, seed, attack.
    rounds : tuple of RoundRecord
    weights : Any
        The model after the last round, of the kind that training takes. None if no round was published
        and there was no initial model.
    """

    settings: ModelSettings
    simulation: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]
    weights: Any

    @property
    def metrics(self) -> dict[str, list[float]]:
        """The metrics by name, with a number for each round; NaN where there is none."""
        names = dict.fromkeys(name for each in self.rounds for name in each.metrics)
        return {
            name: [each.metrics.get(name, float("nan")) for each in self.rounds] for name in names
        }

    def to_dataframe(self, by: str = "clients") -> DataFrame:
        """Return the history as a table of pandas, which must be installed.

        Parameters
        ----------
        by : {'clients', 'rounds'}
            Whether there is a row for each round and client, or for each round. Metrics have columns of
            their own; those of a client begin with ``client_``.
        """
        from pandas import DataFrame

        if by not in ("clients", "rounds"):
            raise BadArgument(f"by must be 'clients' or 'rounds'; got {by!r:.80}")
        return DataFrame(list(self._client_rows() if by == "clients" else self._round_rows()))

    def _client_rows(self) -> Iterator[dict[str, Any]]:
        for each in self.rounds:
            for record in each.clients:
                yield {
                    "round": each.number,
                    "status": each.status,
                    **{name: value for name, value in vars(record).items() if name != "metrics"},
                    **{f"client_{name}": value for name, value in record.metrics.items()},
                    **each.metrics,
                }

    def _round_rows(self) -> Iterator[dict[str, Any]]:
        for each in self.rounds:
            yield {
                "round": each.number,
                "status": each.status,
                "reason": each.reason,
                "sent": sum(record.sent for record in each.clients),
                "used": sum(record.used for record in each.clients),
                "rejected": sum(bool(record.rejection) for record in each.clients),
                **({} if each.epsilon is None else {"epsilon": each.epsilon}),
                **each.metrics,
            }

    def plot(self) -> Figure:
        """Draw the metrics and the clients' weights by round; matplotlib must be installed."""
        from laboratory.plots import draw

        title = f"{self.settings.rule().name}, {self.simulation['attack'] or 'no attack'}"
        return draw(title, self.metrics, self.rounds)

    def save_settings(self, path: str | PathLike[str]) -> None:
        """Write the settings as JSON, for ``manage.py create_model NAME --from FILE``."""
        document = {KEY: self.settings.to_json(), "simulation": dict(self.simulation)}
        Path(path).write_text(json.dumps(document, indent=2) + "\n")

    def save_weights(self, path: str | PathLike[str]) -> None:
        """Write the weights, for ``manage.py create_model NAME --initial FILE``.

        The extension decides the format: ``.safetensors``, ``.npz`` or ``.json``.
        """
        if self.weights is None:
            raise BadArgument("there are no weights: no round was published")
        try:
            body = encode(arrays_of(self.weights), format_of(Path(path).name))
        except (UpdateRejected, BadWeights) as error:
            raise BadArgument(f"the weights cannot be written: {error}") from error
        Path(path).write_bytes(body.getvalue())

"""The faults of the demonstration: which client misbehaves, and in which round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from local.network import Model

MIN_CLIENTS = 3
MIN_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Script:
    """Who misbehaves, by the client's index, and in which round.

    Attributes
    ----------
    dropout, last_round : int
        The client that drops out, and the last round in which it takes part.
    hostile, wrong_shape_round, nan_round : int
        The client that sends invalid updates, and the rounds in which it does.
    masked : bool
        Whether updates are masked: the invalid ones are then signed with another key.
    """

    dropout: int
    last_round: int
    hostile: int
    wrong_shape_round: int
    nan_round: int
    masked: bool = False

    @classmethod
    def for_federation(cls, n_clients: int, n_rounds: int, *, masked: bool = False) -> Script:
        """Let a client drop out halfway; another sends invalid updates in the first and last quarter."""
        quarter = n_rounds // 4
        return cls(
            dropout=n_clients - 2,
            last_round=n_rounds // 2,
            hostile=n_clients - 1,
            wrong_shape_round=max(1, quarter),
            nan_round=n_rounds - quarter,
            masked=masked,
        )

    def takes_part(self, client: int, round_number: int) -> bool:
        """Return whether a client takes part in a round."""
        return client != self.dropout or round_number <= self.last_round

    def upload(self, client: int, round_number: int, trained: Model) -> Model:
        """Return what a client sends: the model that it trained, or an invalid one."""
        if client == self.hostile and round_number == self.wrong_shape_round:
            return {**trained, "output.bias": trained["output.bias"][:-1]}
        if client == self.hostile and round_number == self.nan_round:
            return {**trained, "output.bias": np.full_like(trained["output.bias"], np.nan)}
        return trained

    def misbehaves(self, client: int, round_number: int) -> bool:
        """Return whether a client sends an invalid update in a round."""
        return client == self.hostile and round_number in (self.wrong_shape_round, self.nan_round)

    def remark(self, client: int) -> str:
        """Return a sentence about a client's part in the run; empty if it behaves."""
        if client == self.dropout:
            return f"dropped out after round {self.last_round}"
        if client == self.hostile and self.masked:
            return f"wrong signature in rounds {self.wrong_shape_round} and {self.nan_round}"
        if client == self.hostile:
            return f"wrong shape in round {self.wrong_shape_round}, NaN in round {self.nan_round}"
        return ""

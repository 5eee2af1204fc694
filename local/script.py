"""What goes wrong in the demonstration, and when."""

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
    deserter, last_round : int
        Who drops out, and the last round it takes part in.
    vandal, wrong_shape_round, nan_round : int
        Who sends garbage, and when which.
    """

    deserter: int
    last_round: int
    vandal: int
    wrong_shape_round: int
    nan_round: int

    @classmethod
    def for_federation(cls, n_clients: int, n_rounds: int) -> Script:
        """Half-way one client drops out; in the first and the last quarter another sends garbage."""
        quarter = n_rounds // 4
        return cls(
            deserter=n_clients - 2,
            last_round=n_rounds // 2,
            vandal=n_clients - 1,
            wrong_shape_round=max(1, quarter),
            nan_round=n_rounds - quarter,
        )

    def takes_part(self, client: int, round_number: int) -> bool:
        """Whether a client is still there."""
        return client != self.deserter or round_number <= self.last_round

    def upload(self, client: int, round_number: int, trained: Model) -> Model:
        """What a client sends instead of what it trained."""
        if client == self.vandal and round_number == self.wrong_shape_round:
            return {**trained, "output.bias": trained["output.bias"][:-1]}
        if client == self.vandal and round_number == self.nan_round:
            return {**trained, "output.bias": np.full_like(trained["output.bias"], np.nan)}
        return trained

    def remark(self, client: int) -> str:
        """On a client's part in the run, in words."""
        if client == self.deserter:
            return f"dropped out after round {self.last_round}"
        if client == self.vandal:
            return f"wrong shape in round {self.wrong_shape_round}, NaN in round {self.nan_round}"
        return ""

"""The schedule by which rounds leave tensors as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregation.errors import RuleError
from aggregation.policies import MAX_POLICIES, check_glob


@dataclass(frozen=True)
class FreezeSchedule:
    """Which tensors a round leaves as they are, by the number of the aggregate that it succeeds.

    If the factors of a LoRA adapter alternate, each round averages only one of them, which is exact:
    ``mean(B_i A)`` is ``mean(B_i) A``. Chen et al., *Robust Federated Finetuning of LLMs via Alternating
    Optimization of LoRA* (RoLoRA), arXiv 2502.01755, algorithm 1. With the same factor in both lists
    it is FFA-LoRA: Sun et al., *Improving LoRA in Privacy-preserving Federated Learning*, ICLR 2024.

    Parameters
    ----------
    odd, even : tuple of str
        Globs. The initial model has the number 0, which is even.
    """

    odd: tuple[str, ...] = ()
    even: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, saved: Any) -> FreezeSchedule:
        """Return the schedule of a mapping such as ``{"odd": ["*.lora_A.*"], "even": ["*.lora_B.*"]}``.

        Raises
        ------
        RuleError
            If it is not such a mapping.
        """
        if not isinstance(saved, Mapping) or not saved.keys() <= {"odd", "even"}:
            raise RuleError(
                f'freeze must be of the form {{"odd": [glob], "even": [glob]}}; got {saved!r:.80}'
            )
        for globs in saved.values():
            if not isinstance(globs, list | tuple) or len(globs) > MAX_POLICIES:
                raise RuleError(
                    f"freeze takes lists of at most {MAX_POLICIES} globs; got {globs!r:.80}"
                )
            for glob in globs:
                check_glob(glob)
        return cls(odd=tuple(saved.get("odd", ())), even=tuple(saved.get("even", ())))

    @property
    def alternates(self) -> bool:
        """Whether not all rounds freeze the same tensors."""
        return self.odd != self.even

    def frozen_at(self, number: int) -> tuple[str, ...]:
        """Return the globs of the tensors that the round after aggregate ``number`` leaves alone."""
        return self.odd if number % 2 else self.even

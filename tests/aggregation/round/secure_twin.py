"""The in-memory twin of the connector for rounds of masked updates, with a mask keeper in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from aggregation.errors import MasksPending, ProgressLost, UpdateRejected
from aggregation.formats import peek_layout
from aggregation.layout import TensorLayout
from aggregation.masks.masking import Mask, derive, quantised
from aggregation.masks.requests import MaskAnswer, MaskKeys, MaskRequest
from aggregation.masks.settings import SecureAggregation, masked_layout
from aggregation.masks.weights import MaskedWeights, open_masked
from aggregation.policies import DEFAULT
from aggregation.round import (
    Claim,
    ClaimedUpdate,
    RoundAnswer,
    RoundCheckpoint,
    SecureTerms,
    Status,
)
from aggregation.sources import ByteSource, BytesSource
from mask_keeper.checks import Terms, check_request
from mask_keeper.sums import sum_of_masks
from tests.aggregation.masks.samples import HEADER, KEEPER, client_of, masked_update
from tests.twin import InMemoryRoundConnector, MemoryModel, MemoryUpdate

#: Two masked tensors and a counter, which is kept. safetensors saves them in the order steps, b, w.
PARENT: dict[str, NDArray[Any]] = {
    "w": np.linspace(-1, 1, 51, dtype=np.float32).reshape(3, 17),
    "steps": np.array([5], np.int64),
    "b": np.linspace(2, 3, 29, dtype=np.float32),
}

SETTINGS = SecureAggregation(
    keeper=KEEPER.public_key().public_bytes_raw().hex(), clip_norm=4.0, scale=1 << 16, min_cohort=2
)


def key_of(client: str) -> Ed25519PrivateKey:
    """Return the signing key of a client."""
    return Ed25519PrivateKey.from_private_bytes(derive(client.encode(), "signing"))


class SecureTwin(InMemoryRoundConnector):
    """Models whose updates are masked.

    Attributes
    ----------
    reachable : bool
        Whether the mask keeper answers.
    asked : list of str
        The keys of the requests that the mask keeper received.
    """

    def __init__(self) -> None:
        super().__init__(timedelta(minutes=5))
        self.reachable = True
        self.asked: list[str] = []
        self.min_cohort = 2
        self.registered: dict[str, bytes] = {}
        self._spent: dict[str, str] = {}

    def secure_model(self, clients: int, max_weight: int = 1, **fields: Any) -> MemoryModel:
        """Add a model with clients that are registered at the mask keeper."""
        ids = [client_of(number) for number in range(1, clients + 1)]
        initial = safetensors.numpy.save(PARENT)
        rule = "weighted_mean" if max_weight > 1 else "unweighted_mean"
        model = self.add_model(ids, initial, update_kind="differences", aggregator=rule, **fields)
        self.max_weight = max_weight
        self.registered |= {each: key_of(each).public_key().public_bytes_raw() for each in ids}
        return model

    def masked_layout(self, model: MemoryModel) -> TensorLayout:
        """Return the layout of a model's masked updates."""
        source = BytesSource(self.storage.bodies[str(model.initial)])
        return masked_layout(peek_layout(source, "safetensors", trusted=True), DEFAULT)

    def send(
        self,
        model: MemoryModel,
        number: int,
        difference: NDArray[Any],
        /,
        *,
        weight: int = 1,
        change: int | None = None,
        **fields: Any,
    ) -> MemoryUpdate:
        """Send the masked update of a client; ``change`` is a byte of it in which a bit is changed."""
        factor = SETTINGS.scale * weight / self.max_weight
        body = bytearray(
            masked_update(
                quantised(difference, factor, SETTINGS.limit),
                self.masked_layout(model),
                key_of(client_of(number)),
                **{
                    "model": model.id,
                    "client": client_of(number),
                    "keeper": SETTINGS.keeper,
                    "scale": SETTINGS.scale,
                    "limit": SETTINGS.limit,
                    "weight": weight,
                    "max_weight": self.max_weight,
                    **fields,
                },
            )
        )
        if change is not None:
            body[change] ^= 1
        return self.add_update(model, client_of(number), bytes(body), "safetensors")

    # The port

    def claim_round(self, model_id: int) -> Claim | RoundAnswer:
        claim = super().claim_round(model_id)
        if isinstance(claim, RoundAnswer):
            return claim
        terms = SecureTerms(settings=SETTINGS, max_weight=self.max_weight, round=claim.round_id)
        return replace(claim, secure=terms)

    def open_masked(self, update: ClaimedUpdate, layout: TensorLayout) -> MaskedWeights:
        if update.location not in self.storage.bodies:
            raise UpdateRejected("the object is not there")
        return open_masked(BytesSource(self.storage.bodies[update.location]), layout)

    def store_request(self, key: str, body: bytes) -> None:
        self.storage.bodies[key] = body

    def masks_answer(self, claim: Claim, key: str) -> MaskAnswer | None:
        found = self.storage.bodies.get(MaskKeys.of(key).answer)
        if found:
            return MaskAnswer.decode(found)
        if not self.reachable:
            raise MasksPending("the mask keeper cannot be asked: it is not reachable")
        self.asked.append(key)
        return None

    def open_sum(self, location: str, nbytes: int) -> ByteSource:
        if location not in self.storage.bodies:
            raise ProgressLost("the sum is not there")
        return BytesSource(self.storage.bodies[location])

    def await_masks(
        self, claim: Claim, checkpoint: RoundCheckpoint | None, reason: str
    ) -> RoundAnswer:
        self._release(claim, checkpoint)
        return RoundAnswer(
            model_id=claim.model_id, status=Status.BUSY, round=claim.number, reason=reason
        )

    # The mask keeper

    def answer_requests(self) -> list[MaskAnswer]:
        """Answer the requests that the mask keeper received."""
        answers = [self._answer(key) for key in dict.fromkeys(self.asked)]
        self.asked.clear()
        return answers

    def _answer(self, key: str) -> MaskAnswer:
        keys, request = MaskKeys.of(key), MaskRequest.decode(self.storage.bodies[key])
        terms = Terms(key=KEEPER, min_cohort=self.min_cohort, now=HEADER.expires - 3600)
        checked = check_request(request, self.registered, terms)
        if not isinstance(checked, MaskAnswer):
            taken = {
                position: "spent"
                for position, header in enumerate(checked.headers)
                if self._spent.get(header.commitment, keys.digest) != keys.digest
            }
            if taken:
                checked = MaskAnswer(refused=taken)
        if isinstance(checked, MaskAnswer):
            answer = checked
        else:
            self._spent |= {each.commitment: keys.digest for each in checked.headers}
            self.storage.bodies[keys.sum] = _sum(checked.seeds, checked.elements)
            answer = MaskAnswer(elements=checked.elements)
        self.storage.bodies[keys.answer] = answer.encode()
        return answer


def _sum(seeds: Sequence[bytes], elements: int) -> bytes:
    with ThreadPoolExecutor(1) as pool:
        return sum_of_masks([Mask(seed) for seed in seeds], 0, elements, pool).tobytes()

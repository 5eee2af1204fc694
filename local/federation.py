"""The demonstration's federation, round by round. Import it after Django has started.

Nothing here starts a round: the notifications of the uploads do, through the queue and the function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import safetensors.numpy
from django.core.files.base import ContentFile

from connectors.publication.pointer import write_pointer
from connectors.storage.weights import default_objects
from local.cloud import Cloud
from local.dataset import Digits
from local.errors import RoundOverdue
from local.mask_keeper import RunningKeeper
from local.network import Model, accuracy
from local.participant import Participant
from local.private_participant import SETTINGS, PrivateUploads
from local.report import RoundReport
from local.script import Script
from models_app.models import (
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelUpdate,
)
from models_app.privacy import privacy_after, spent_after

#: How long a round waits for missing clients: much longer than the uploads of one process take, and
#: short enough to watch.
PATIENCE_MINUTES = 0.02

#: A round that takes longer is an error.
OVERDUE_SECONDS = 120.0
POLL_SECONDS = 0.05


class Federation:
    """A federated model and its clients, created in the database.

    Parameters
    ----------
    cloud : Cloud
    digits : Digits
    initial : Model
    script : Script
    rng : numpy.random.Generator
    keeper : RunningKeeper, optional
        The mask keeper, if clients mask their updates.
    keys : Path
        The folder of the clients' keys.
    noise : mapping
        Fields of the model that make it private; empty for none.
    """

    def __init__(
        self,
        cloud: Cloud,
        digits: Digits,
        initial: Model,
        script: Script,
        rng: np.random.Generator,
        keeper: RunningKeeper | None = None,
        keys: Path = Path(),
        noise: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._digits = digits
        self._script = script
        counts = [len(each) for each in digits.training]
        self._model, self._initial_key = _create_model(counts, initial, keeper, noise)
        s3 = cloud.client("s3")
        self.participants = [
            Participant(
                index=index,
                uuid=UUID(bytes=stream.bytes(16), version=4),  # A function of the seed.
                s3=s3,
                bucket=cloud.bucket,
                model_id=self._model.pk,
                training=training,
                held_out=held_out,
                rng=stream,
            )
            for index, (training, held_out, stream) in enumerate(
                zip(digits.training, digits.held_out, rng.spawn(len(digits.training)), strict=True)
            )
        ]
        clients = [Client(uuid=participant.uuid) for participant in self.participants]
        self._model.clients.set(Client.objects.bulk_create(clients))
        self._private: dict[int, PrivateUploads] = {}
        if keeper:
            write_pointer(default_objects(), self._model.pk)
            for each in self.participants:
                self._private[each.index] = PrivateUploads.register(
                    keeper, each.uuid, s3, cloud.bucket, self._model.pk, keys
                )

    def rounds(self, count: int, progress: Callable[[str], None]) -> Iterator[RoundReport]:
        """Train for some rounds.

        Parameters
        ----------
        count : int
        progress : callable
            Called with a description of each step.

        Raises
        ------
        RoundOverdue
            If a round's uploads do not become an aggregate.
        """
        for number in range(1, count + 1):
            present = [
                each for each in self.participants if self._script.takes_part(each.index, number)
            ]
            progress(f"round {number}: {len(present)} clients train")
            base = self._latest()
            trained = self._train(present, base)
            progress(f"round {number}: waiting for the aggregate")
            started = time.monotonic()
            self._upload(present, trained, number, base)
            aggregate = self._await_aggregate(number)
            seconds = time.monotonic() - started
            self._score(present, aggregate)
            yield self._report(aggregate, seconds)

    def final_scores(self) -> dict[int, float]:
        """Return what each remaining client measured of the last aggregate, by the client's index."""
        latest = self._latest()
        index = {participant.uuid: participant.index for participant in self.participants}
        scores = ClientAggregateScore.objects.filter(aggregate=latest)
        return {index[each.client_id]: each.validation_results["accuracy"] for each in scores}

    def _latest(self) -> ModelAggregate | None:
        return self._model.aggregates.order_by("-number").first()

    def _train(self, present: list[Participant], base: ModelAggregate | None) -> list[Model]:
        key = str(base.result.name) if base else self._initial_key
        return [each.train(each.download(key)) for each in present]

    def _upload(
        self,
        present: list[Participant],
        trained: list[Model],
        number: int,
        base: ModelAggregate | None,
    ) -> None:
        """Upload the updates after all clients have trained.

        In a federation the clients train at the same time, here one after another, and the waiting time
        of the quorum starts with the first update.
        """
        for participant, model in zip(present, trained, strict=True):
            if self._private:
                self._private[participant.index].send(
                    model,
                    num_examples=len(participant.training),
                    base_aggregate=base.pk if base else None,
                    forged=self._script.misbehaves(participant.index, number),
                )
                continue
            participant.upload(
                self._script.upload(participant.index, number, model),
                name=f"round-{number:03}",
                base_aggregate=base.pk if base else None,
            )

    def _await_aggregate(self, number: int) -> ModelAggregate:
        overdue = time.monotonic() + OVERDUE_SECONDS
        while self._model.allow_aggregation and time.monotonic() < overdue:
            aggregate = self._model.aggregates.filter(number=number).select_related("round").first()
            if aggregate:
                return aggregate
            time.sleep(POLL_SECONDS)
            self._model.refresh_from_db(fields=["allow_aggregation", "pause_reason"])
        raise RoundOverdue(f"round {number} has no aggregate: {self._explanation()}")

    def _explanation(self) -> str:
        """Return why there is no aggregate, as far as the database shows."""
        if not self._model.allow_aggregation:
            return f"the model is paused: {self._model.pause_reason}"
        last = self._model.rounds.order_by("-pk").first()
        if last and last.error:
            return f"the last round ended with {last.error}"
        ready = self._model.model_updates.filter(status__in=ModelUpdate.READY).count()
        return f"{ready} updates have been waiting for {OVERDUE_SECONDS:.0f} seconds"

    def _score(self, present: list[Participant], aggregate: ModelAggregate) -> None:
        location = str(aggregate.result.name)
        ClientAggregateScore.objects.bulk_create(
            ClientAggregateScore(
                aggregate=aggregate,
                client_id=each.uuid,
                validation_results={
                    "accuracy": each.score(each.download(location)),
                    "num_examples": len(each.held_out),
                },
            )
            for each in present
        )

    def _report(self, aggregate: ModelAggregate, seconds: float) -> RoundReport:
        weights = safetensors.numpy.load(aggregate.result.read())
        test = self._digits.test
        return RoundReport(
            number=aggregate.number,
            updates_used=aggregate.round.updates_used,
            rejected=self._rejected(aggregate.number),
            accuracy=accuracy(weights, test.features, test.labels),
            seconds=seconds,
            functions=aggregate.round.workers.get("functions", 1),
            epsilon=(privacy_after(aggregate.round) or {}).get("epsilon"),
            spent=spent_after(aggregate.round),
        )

    def _rejected(self, number: int) -> dict[str, str]:
        names = {participant.uuid: participant.name for participant in self.participants}
        invalid = ModelUpdate.objects.filter(
            federated_model=self._model,
            status=ModelUpdate.Status.INVALID,
            # As this module and as the client's library name objects.
            data__regex=rf"/round-({number:03}\.|{number:06}-)",
        )
        return {names[update.client_id]: update.rejection_reason for update in invalid}


def _create_model(
    counts: Sequence[int], initial: Model, keeper: RunningKeeper | None, noise: Mapping[str, Any]
) -> tuple[FederatedModel, str]:
    """Create the federated model, and return it with the key of its initial weights.

    Parameters
    ----------
    counts : sequence of int
        The numbers of examples of the clients.
    initial : Model
    keeper : RunningKeeper or None
    noise : mapping
        Fields that make the model private.
    """
    masked: dict[str, Any] = {}
    if keeper:
        addresses = {"keeper": keeper.public_key, "queue": keeper.queue_url}
        masked = {
            "update_kind": FederatedModel.UpdateKind.DIFFERENCES,
            "secure_aggregation": SETTINGS | addresses,
        }
    model = FederatedModel.objects.create(
        name="digits",
        # All clients, or half of them after the waiting time. No round waits without end for a client
        # that dropped out or whose update was rejected.
        requirement="quorum",
        requirement_args=[len(counts) // 2, PATIENCE_MINUTES],
        furthest_base_agg=1,
        max_num_examples=max(counts) if keeper else 10_000,
        **{"aggregator": "weighted_mean", **masked, **noise},
    )
    artifact = ModelArtifact(federated_model=model, version="initial")
    content = ContentFile(safetensors.numpy.save(initial))
    artifact.values.save(f"{model.pk}/initial.safetensors", content)
    model.current_artifact = artifact
    model.save()
    return model, str(artifact.values.name)

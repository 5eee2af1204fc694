"""The demonstration's federation, round by round. Import it once Django is booted.

Nobody here asks for a round: the uploads' notifications do, by way of queue, pump and function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from uuid import UUID

import numpy as np
import safetensors.numpy
from django.core.files.base import ContentFile

from local.cloud import Cloud
from local.dataset import Digits
from local.errors import RoundOverdue
from local.network import Model, accuracy
from local.participant import Participant
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

#: A round waits this long for the clients that are missing: much longer than those of one process
#: take to upload, and short enough to watch.
PATIENCE_MINUTES = 0.02

#: By then a round is published, or something is broken.
OVERDUE_SECONDS = 60.0
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
    """

    def __init__(
        self,
        cloud: Cloud,
        digits: Digits,
        initial: Model,
        script: Script,
        rng: np.random.Generator,
    ) -> None:
        self._digits = digits
        self._script = script
        self._model, self._initial_key = _create_model(len(digits.training), initial)
        s3 = cloud.client("s3")
        self.participants = [
            Participant(
                index=index,
                uuid=UUID(bytes=stream.bytes(16), version=4),  # A seed tells the whole run.
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

    def rounds(self, count: int, doing: Callable[[str], None]) -> Iterator[RoundReport]:
        """Train for some rounds.

        Parameters
        ----------
        count : int
        doing : callable
            Told what is going on.

        Raises
        ------
        RoundOverdue
            If a round's uploads do not become an aggregate.
        """
        for number in range(1, count + 1):
            here = [
                each for each in self.participants if self._script.takes_part(each.index, number)
            ]
            doing(f"round {number}: {len(here)} clients train")
            base = self._latest()
            trained = self._train(here, base)
            doing(f"round {number}: waiting for the aggregate")
            started = time.monotonic()
            self._upload(here, trained, number, base)
            aggregate = self._await_aggregate(number)
            seconds = time.monotonic() - started
            self._score(here, aggregate)
            yield self._report(aggregate, seconds)

    def final_scores(self) -> dict[int, float]:
        """What the clients that are left measured of the last aggregate, by index."""
        latest = self._latest()
        index = {participant.uuid: participant.index for participant in self.participants}
        scores = ClientAggregateScore.objects.filter(aggregate=latest)
        return {index[each.client_id]: each.validation_results["accuracy"] for each in scores}

    def _latest(self) -> ModelAggregate | None:
        return self._model.aggregates.order_by("-number").first()

    def _train(self, here: list[Participant], base: ModelAggregate | None) -> list[Model]:
        key = str(base.result.name) if base else self._initial_key
        return [each.train(each.download(key)) for each in here]

    def _upload(
        self,
        here: list[Participant],
        trained: list[Model],
        number: int,
        base: ModelAggregate | None,
    ) -> None:
        """All after all have trained: in a federation they train side by side, here in turn, and the
        quorum's clock runs from the first update."""
        for participant, model in zip(here, trained, strict=True):
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
        """Why no aggregate comes, as far as the database knows."""
        if not self._model.allow_aggregation:
            return f"the model is paused, {self._model.pause_reason}"
        last = self._model.rounds.order_by("-pk").first()
        if last and last.error:
            return f"the last round ended with {last.error}"
        ready = self._model.model_updates.filter(status__in=ModelUpdate.READY).count()
        return f"{ready} updates have been waiting for {OVERDUE_SECONDS:.0f} seconds"

    def _score(self, here: list[Participant], aggregate: ModelAggregate) -> None:
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
            for each in here
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
        )

    def _rejected(self, number: int) -> dict[str, str]:
        names = {participant.uuid: participant.name for participant in self.participants}
        invalid = ModelUpdate.objects.filter(
            federated_model=self._model,
            status=ModelUpdate.Status.INVALID,
            data__endswith=f"/round-{number:03}.safetensors",
        )
        return {names[update.client_id]: update.rejection_reason for update in invalid}


def _create_model(n_clients: int, initial: Model) -> tuple[FederatedModel, str]:
    """The federated model, and the key of its initial weights."""
    model = FederatedModel.objects.create(
        name="digits",
        aggregator="weighted_mean",
        # All clients, or half of them once the others have had time: no round waits for ever for a
        # client that has gone or whose update is rejected.
        requirement="quorum",
        requirement_args=[n_clients // 2, PATIENCE_MINUTES],
        furthest_base_agg=1,
    )
    artifact = ModelArtifact(federated_model=model, version="initial")
    content = ContentFile(safetensors.numpy.save(initial))
    artifact.values.save(f"{model.pk}/initial.safetensors", content)
    model.current_artifact = artifact
    model.save()
    return model, str(artifact.values.name)

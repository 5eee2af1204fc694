"""The estimate counts the requests that the code makes."""

from __future__ import annotations

import io
import runpy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import boto3.s3.transfer
import numpy as np
import pytest
import safetensors.numpy
from django.conf import settings
from django.test import override_settings

from aggregation.engine import Resources
from aggregation.optimizers import create_optimizer
from aggregation.round import run_round
from aggregation.rules import Statistics, create_rule
from connectors import application, limits
from connectors.publication.pointer import write_pointer
from costs import duration as durations
from costs import rounds
from costs.duration import NoProgress, duration
from costs.rounds import Work, client_writes, members
from costs.stack import Stack
from federated_client import Bucket
from models_app.models import FederatedModel
from tests.factories import client_id, make_model, ready_update, s3_record
from tests.test_lambda_handler import invoke
from tests.untyped import default_storage

FLOAT32 = np.dtype("<f4")

#: Size of a part, so that a small model has several.
SMALL_PART = 1 << 13


def work(
    params: int,
    updates: int,
    rule: str = "weighted_mean",
    memory: int = 64 << 20,
    optimizer: str = "none",
) -> Work:
    arguments = RULES.get(rule, {})
    return Work(
        params=params,
        dtype=FLOAT32,
        updates=updates,
        rule=create_rule(rule, arguments),
        memory_bytes=memory,
        optimizer=create_optimizer(optimizer),
    )


#: A rule of each kind with its arguments: one pass, two passes over all updates, or a second over some.
RULES: dict[str, dict[str, Any]] = {
    "weighted_mean": {},
    "coordinate_median": {},
    "krum": {"f": 1},
    "multi_krum": {"f": 1, "m": 3},
    "bulyan": {"f": 1},
    "geometric_median": {},
    "norm_clipped_mean": {"max_norm": 1.0},
}


@contextmanager
def counted(client: Any) -> Iterator[Counter[str]]:
    """Count the requests of an S3 client by operation."""
    asked: Counter[str] = Counter()

    def note(model: Any, **_: Any) -> None:
        asked[model.name] += 1

    client.meta.events.register("before-call.s3", note)
    try:
        yield asked
    finally:
        client.meta.events.unregister("before-call.s3", note)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make parts so small that a model of some kilobytes has several."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", SMALL_PART)


def values(params: int, seed: int) -> dict[str, Any]:
    return {"w": np.random.default_rng(seed).standard_normal(params).astype(FLOAT32)}


def ready_model(rule: str, params: int, updates: int, optimizer: str = "none") -> FederatedModel:
    """Create a model with initial weights and a registered update of each client.

    With an optimizer, there is an aggregate with its state as well.
    """
    fields = {"aggregator": rule, "aggregator_args": RULES[rule], "server_optimizer": optimizer}
    model = make_model(updates, initial=values(params, 0), **fields)
    if optimizer != "none":
        send_updates(model, params, updates)
        run_round(application.round_connector(), model.pk)
    send_updates(model, params, updates)
    return model


def send_updates(model: FederatedModel, params: int, updates: int) -> None:
    """Register an update of each client."""
    for client in range(1, updates + 1):
        update = ready_update(model, client, values(params, client))
        seen = default_storage.connection.meta.client.head_object(
            Bucket=default_storage.bucket_name, Key=update.data.name
        )
        update.size, update.etag = seen["ContentLength"], seen["ETag"].strip('"')
        update.save()


@pytest.mark.usefixtures("database", "cloud", "small_parts")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("memory", [1 << 15, 1 << 24])
@pytest.mark.parametrize("rule", RULES)
def test_the_requests_of_a_round_are_estimated_exactly(rule: str, memory: int) -> None:
    """For each kind of rule and any memory, the round makes exactly the estimated requests."""
    params, updates = 5_000, 7
    model = ready_model(rule, params, updates)
    with counted(default_storage.connection.meta.client) as asked:
        answer = run_round(
            application.round_connector(),
            model.pk,
            resources=Resources(memory_bytes=memory),
        )
    estimated = work(params, updates, rule, memory)
    assert estimated.parts == 3
    assert asked == estimated.requests()
    assert answer.bytes_read == estimated.nbytes


@pytest.mark.usefixtures("database", "cloud", "small_parts")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("optimizer", ["sgd", "fedavgm", "fedadam"])
@pytest.mark.parametrize("rule", ["weighted_mean", "krum"])
def test_the_requests_of_a_step_are_estimated_exactly(rule: str, optimizer: str) -> None:
    """A server optimizer reads the parent, reads its state, and stores the new one."""
    params, updates, memory = 5_000, 7, 1 << 15
    model = ready_model(rule, params, updates, optimizer)
    with counted(default_storage.connection.meta.client) as asked:
        answer = run_round(
            application.round_connector(), model.pk, resources=Resources(memory_bytes=memory)
        )
    estimated = work(params, updates, rule, memory, optimizer)
    assert asked == estimated.requests()
    assert answer.bytes_read == estimated.nbytes


@pytest.mark.usefixtures("database", "cloud", "small_parts")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_requests_of_a_resumed_round_are_estimated() -> None:
    """A second invocation opens the updates again and lists the stored parts; what the first one had read
    ahead is read again."""
    params, updates, memory = 5_000, 3, 1 << 24
    model = ready_model("weighted_mean", params, updates)
    with counted(default_storage.connection.meta.client) as asked:
        for stop in (True, False):
            run_round(
                application.round_connector(),
                model.pk,
                resources=Resources(memory_bytes=memory),
                out_of_time=partial(bool, stop),
            )
    read_ahead = Counter(GetObject=updates)
    assert asked == work(params, updates, memory=memory).requests(2) + read_ahead


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_requests_from_upload_to_pointer_are_estimated(cloud: Any) -> None:
    """With real sizes, the uploads of the client package and the whole handler, the estimate counts the
    requests of intake, of the round, for `latest.json` and for the clients' status."""
    params, updates = 3_300_000, 3
    model = make_model(updates, initial=values(params, 0), requirement="all_clients")
    write_pointer(application.objects(), model.pk)
    application.update_intake.cache_clear()  # It may have a client of S3 from another test.
    s3 = cloud.client("s3")
    with counted(s3) as sent:
        records = [send(model, client, values(params, client), s3) for client in (1, 2, 3)]
    budget = {"MEMORY_BUDGET_MB": 16}
    with override_settings(**budget), counted(default_storage.connection.meta.client) as asked:
        for record in records:
            invoke({"Records": [record]})
    assert model.aggregates.count() == 1
    estimated = work(params, updates, memory=16 << 20)
    outside = rounds.intake_requests(updates) + rounds.pointer_requests()
    outside += rounds.status_requests(updates)
    assert asked == outside + estimated.requests()
    assert sent.total() == updates * client_writes(estimated.layout.nbytes)


_names = count(1)


def send(model: FederatedModel, client: int, tensors: Any, s3: Any) -> dict[str, Any]:
    """Upload with the client package, and return the record of the notification."""
    body = safetensors.numpy.save(tensors)
    key = f"updates/{model.pk}/{client_id(client)}/sent-{next(_names)}.safetensors"
    bucket = default_storage.bucket_name
    Bucket(bucket, s3).put(key, io.BytesIO(body), {"num-examples": "1"}, None)
    plain = default_storage.connection.meta.client
    etag = plain.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')
    return s3_record(key, etag, len(body))


def test_the_client_uploads_in_parts_as_boto3_does() -> None:
    """From 8 MiB on, an upload has parts of 8 MiB, and one request each to create and complete it."""
    config = boto3.s3.transfer.TransferConfig()
    size = rounds.CLIENT_PART_BYTES
    assert config.multipart_threshold == config.multipart_chunksize == size
    assert [client_writes(each) for each in (1, size - 1, size, 10 * size)] == [1, 1, 3, 12]


@pytest.mark.parametrize("rule", RULES)
def test_selected_updates_are_read_again(rule: str) -> None:
    """`members` counts the updates that the rule selects from eleven updates at equal distances."""
    made = create_rule(rule, RULES[rule])
    statistics = Statistics(np.ones(11), gram=np.eye(11), squares=None)
    assert len(made.select(statistics).members) == members(made, 11)


@pytest.mark.parametrize("memory_mb", [64, 512, 1769, 10240])
def test_the_engine_has_the_memory_that_settings_give_it(
    memory_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory budget is the one that `settings.py` derives from the memory of the function."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", str(memory_mb))
    monkeypatch.delenv("MEMORY_BUDGET_MB", raising=False)
    read = runpy.run_path(str(settings.BASE_DIR / "settings.py"))
    assert rounds.memory_budget(memory_mb, read["ENGINE_SHARE"]) == read["MEMORY_BUDGET_MB"] << 20


def test_the_usable_time_is_that_of_the_dispatcher() -> None:
    """An invocation stops as long before its timeout as the dispatcher makes it stop."""
    for name in ("STOP_BEFORE_END_SECONDS", "STOP_BEFORE_END_SHARE"):
        assert getattr(durations, name) == getattr(limits, name)


def test_a_longer_round_takes_more_invocations() -> None:
    """Each invocation opens the updates again and repeats half a part, and no more."""
    round_of = work(100_000_000, 50)
    one = duration(round_of, Stack(timeout_seconds=900), 70)
    many = duration(round_of, Stack(timeout_seconds=60), 70)
    assert one.invocations == 1
    assert one.seconds == one.billed_seconds == many.seconds
    assert many.invocations > one.seconds / 60
    assert many.billed_seconds <= many.invocations * 48


def test_small_updates_take_the_time_of_their_requests() -> None:
    """A thousand updates of forty kilobytes take as long as their requests, sixteen at a time."""
    requests = 1000 + 3 + 1000 * 2  # headers, and the two chunks of each
    took = duration(work(10_000, 1000), Stack(), 70)
    waiting = requests * durations.REQUEST_SECONDS / 16
    assert took.seconds == pytest.approx(durations.REST_SECONDS + waiting)


@pytest.mark.parametrize(("updates", "rule"), [(2000, "weighted_mean"), (2000, "geometric_median")])
def test_a_round_without_progress_is_refused(updates: int, rule: str) -> None:
    """If one part of the result takes longer than an invocation, the round would never end."""
    with pytest.raises(
        NoProgress, match="stops after 280 s, but the first part of the result takes"
    ):
        duration(work(25_000_000, updates, rule), Stack(), 70)


def test_measuring_continues_in_further_invocations() -> None:
    """A pass that measures saves its progress, so it may take longer than one invocation."""
    took = duration(work(25_000_000, 300, "geometric_median"), Stack(), 70)
    assert took.invocations > took.seconds / 280

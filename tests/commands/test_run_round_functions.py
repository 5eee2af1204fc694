"""`run_round --functions`: one round in several processes of this machine."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.management import call_command
from django.test import override_settings

from connectors.management import local_functions
from models_app.models import (
    AggregationRound,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelUpdate,
)
from tests.commands import workers
from tests.factories import client_id, make_model
from tests.killing import KILLED
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "cloud")

RunCommand = Callable[..., str]

#: Six parts of `workers.PART_BYTES`.
SHAPES = {"w": (24, 1000), "b": (300,)}
RULES: dict[str, dict[str, Any]] = {"weighted_mean": {}, "multi_krum": {"f": 1}}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small parts, in this process and in the workers."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", workers.PART_BYTES)
    monkeypatch.setattr(local_functions, "serve", workers.serve_small_parts)
    monkeypatch.setattr(local_functions, "FIRST_RETRY_SECONDS", 0.01)


@pytest.fixture(params=["s3", "files"])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Use a bucket, or a directory."""
    if request.param == "s3":
        yield
        return
    monkeypatch.delenv("BUCKET")
    monkeypatch.setenv("STORAGE_ROOT", str(tmp_path / "storage"))
    directory = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(tmp_path / "storage")},
    }
    with override_settings(STORAGES={**settings.STORAGES, "default": directory}):
        yield


def tensors(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    return safetensors.numpy.save(
        {name: generator.standard_normal(s).astype(np.float32) for name, s in SHAPES.items()}
    )


def model_with_updates(rule: str = "weighted_mean", clients: int = 5) -> FederatedModel:
    """Create a model whose initial weights and updates are stored by Django's default storage."""
    model = make_model(clients, aggregator=rule, aggregator_args=RULES[rule])
    initial = default_storage.save(f"artifacts/{model.pk}/i.safetensors", ContentFile(tensors(0)))
    model.current_artifact = ModelArtifact.objects.create(
        federated_model=model, values=initial, version="initial"
    )
    model.save()
    for client in range(1, clients + 1):
        key = f"updates/{model.pk}/{client_id(client)}/update.safetensors"
        ModelUpdate.objects.create(
            federated_model=model,
            client_id=client_id(client),
            data=default_storage.save(key, ContentFile(tensors(client))),
            size=len(tensors(client)),
            num_examples=client,
        )
    return model


def result_of(model: FederatedModel) -> bytes:
    aggregate: ModelAggregate = model.aggregates.get()
    with default_storage.open(aggregate.result.name) as file:
        return bytes(file.read())


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    ("storage", "rule"), [("s3", "weighted_mean"), ("files", "multi_krum")], indirect=["storage"]
)
def test_several_processes_give_the_bytes_of_one(rule: str, run_command: RunCommand) -> None:
    """The result of several processes has the bytes that one process gives."""
    alone, shared = model_with_updates(rule), model_with_updates(rule)
    run_command("run_round", alone.pk)
    err = io.StringIO()
    call_command("run_round", str(shared.pk), "--functions", "3", stdout=io.StringIO(), stderr=err)
    assert "3 processes shared the round" in err.getvalue()
    assert result_of(shared) == result_of(alone)
    assert shared.rounds.get().updates_used == 5
    assert_shown(run_command, alone, shared)


def assert_shown(run_command: RunCommand, alone: FederatedModel, shared: FederatedModel) -> None:
    """Assert that `show_round` shows the tasks of the shared round, and none of the other."""
    rounds = [model.rounds.get().pk for model in (alone, shared)]
    of_one, of_several = (json.loads(run_command("show_round", each, "--json")) for each in rounds)
    assert of_one["workers"] is None
    assert of_one["bytes"] == of_several["bytes"]
    tasks = of_several["workers"]["tasks"]
    assert of_several["workers"]["functions"] == 3
    assert [(t["first"], t["last"]) for t in tasks if t["kind"] == "combine"] == [
        (0, 2),
        (2, 4),
        (4, 6),
    ]
    assert all(task["seconds"] > 0 and task["bytes_read"] > 0 for task in tasks)
    assert "retries" not in run_command("show_round", rounds[0])
    assert "parts 5 to 6" in run_command("show_round", rounds[1])


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    "storage", ["s3", pytest.param("files", marks=pytest.mark.exhaustive)], indirect=True
)
def test_a_killed_process_is_replaced(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If a process is killed after some parts of its task, another one finishes the task."""
    monkeypatch.setattr(local_functions, "serve", workers.serve_and_die)
    monkeypatch.setenv(KILLED, str(tmp_path / "killed"))
    alone, shared = model_with_updates(), model_with_updates()
    run_command("run_round", alone.pk)
    answer = json.loads(run_command("run_round", shared.pk, "--functions", 2, "--json"))
    assert (tmp_path / "killed").exists()
    assert answer["status"] == "published"
    assert result_of(shared) == result_of(alone)
    assert sum(each["retries"] for each in shared.rounds.get().workers["tasks"]) == 1


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    ("storage", "functions"),
    [("files", 1), pytest.param("s3", 2, marks=pytest.mark.exhaustive)],
    indirect=["storage"],
)
def test_an_interrupted_round_is_resumed(
    functions: int, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C stops all processes; the next request resumes the round, with or without several processes."""
    alone, shared = model_with_updates(), model_with_updates()
    run_command("run_round", alone.pk)

    do_task = local_functions.WorkerProcess.do

    def do_and_interrupt(self: Any, task: Any) -> Any:
        done = do_task(self, task)
        signal.raise_signal(signal.SIGINT)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(local_functions.WorkerProcess, "do", do_and_interrupt)
        patched.setattr(settings, "FUNCTION_BYTES_PER_SECOND", 1000)  # Each part is a task.
        assert "busy: out of time" in run_command("run_round", shared.pk, "--functions", 2)
    assert shared.rounds.get().state == AggregationRound.State.RUNNING
    assert "published" in run_command("run_round", shared.pk, "--functions", functions)
    assert shared.rounds.get().attempt == 2
    assert result_of(shared) == result_of(alone)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_round_that_cannot_be_shared_is_done_by_one_process(run_command: RunCommand) -> None:
    """A result of one part is computed by one process, and the command says so."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("aggregation.engine.ranges.PART_BYTES", 1 << 20)
        model, err = model_with_updates(), io.StringIO()
        call_command(
            "run_round", str(model.pk), "--functions", "3", stdout=io.StringIO(), stderr=err
        )
    assert "one process did the round" in err.getvalue()
    assert model.rounds.get().updates_used == 5


#: Starts a worker, prints its process id, and waits for input that never comes.
START_WORKER = """
import sys
import django
django.setup()
from connectors.management.local_functions import WorkerProcess
worker = WorkerProcess()
worker._start()
print(worker._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_worker_ends_if_its_parent_is_killed() -> None:
    """A process that is killed leaves no worker behind."""
    with subprocess.Popen(
        [sys.executable, "-c", START_WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout
        command = Path(f"/proc/{int(parent.stdout.readline())}/cmdline")
        # The kernel shows an empty command until exec has set the process up.
        assert wait_until(lambda: bool(command.read_bytes()))
        parent.kill()
    # A process that has ended has no command, even before its parent has waited for it.
    assert wait_until(lambda: not command.exists() or not command.read_bytes())


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Return whether the condition became true within the time."""
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met

"""Clients that have nothing but a URL and a token: the package against the function in its real runtime."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import safetensors.numpy
from django.conf import settings

from connectors import application
from connectors.publication.pointer import write_pointer
from connectors.usecases.administration.clients import invite
from federated_client import (
    AccessDenied,
    BadArgument,
    CredentialsInvalid,
    Federation,
    UpdateRejected,
)
from federated_client import limits as client_limits
from federated_client.command_line import main
from federated_client.frameworks import arrays_of, load_into
from local.api_front import api_front
from local.cloud import Cloud
from local.event_pump import EventPump
from local.function import function_environment
from local.lambda_runtime import LambdaRuntime
from models_app.models import Client, FederatedModel
from tests.factories import get, make_model
from tests.untyped import default_storage

pytestmark = [
    pytest.mark.usefixtures("database", "cloud"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

MIB = 1 << 20
PROJECT = Path(__file__).parents[2]
PART = 5 * MIB


@pytest.fixture(autouse=True)
def _own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a home of its own, and small parts."""
    monkeypatch.setenv("FEDERATED_CLIENT_HOME", str(tmp_path / "profiles"))
    monkeypatch.setattr(client_limits, "PART_BYTES", PART)


@pytest.fixture
def url(cloud: Cloud, database: str, tmp_path: Path) -> Iterator[str]:
    """The API in the real runtime, and the function that aggregates, invoked by the queue."""
    environment = function_environment(cloud, os.environ["DATABASE_URL"])
    with (
        LambdaRuntime(
            "lambda_handler.api", environment=environment, log=tmp_path / "api.log"
        ) as api,
        LambdaRuntime(environment=environment, log=tmp_path / "function.log") as function,
        EventPump(cloud.queue_url, function.invoke, sqs=cloud.client("sqs"), retry_seconds=1),
        api_front(api.invoke) as front,
    ):
        yield front


def weights(value: float, elements: int = 1000) -> dict[str, Any]:
    return {"w": np.full(elements, value, np.float32)}


def model_of(clients: int, elements: int = 1000, **fields: Any) -> tuple[FederatedModel, list[str]]:
    """Create a model, and tokens for its clients."""
    model = make_model(0, initial=weights(0.0, elements), **fields)
    write_pointer(application.objects(), model.pk)
    return model, [each.token for each in invite(model, clients, timedelta(days=1))]


def test_a_training_loop_of_ten_lines(url: str) -> None:
    """Two clients enroll, train for three rounds and report a score; the aggregates are their means."""
    model, tokens = model_of(2, requirement="all_clients")
    members = [Federation.enroll(url, token, profile=f"p{n}") for n, token in enumerate(tokens)]
    seen = []

    def take_part(member: Federation, step: float) -> None:
        for round_ in member.rounds(3, poll=0.2):
            seen.append((round_.number, float(round_.weights["w"][0])))
            member.submit({"w": round_.weights["w"] + np.float32(step)}, num_examples=10)
        member.wait(poll=0.2)

    threads = [
        threading.Thread(target=take_part, args=each)
        for each in zip(members, (1.0, 3.0), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(seen)) == [(0, 0.0), (1, 2.0), (2, 4.0)]
    assert members[0].latest().number == 3
    members[0].fetch()
    assert members[0].score(num_examples=5, accuracy=0.5).startswith(f"scores/{model.pk}/")


@pytest.mark.parametrize("page", ["README.md", "docs/clients.md"])
def test_the_training_loops_of_the_documentation_run(url: str, page: str) -> None:
    """The loop on the page trains a model as it is."""
    text = (PROJECT / page).read_text()
    (loop,) = (
        each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "rounds(" in each
    )
    model, (token,) = model_of(1)
    Federation.enroll(url, token)

    def train(model: dict[str, Any]) -> None:
        model["w"] = np.asarray(model["w"]) + np.float32(1.0)

    scope = {"train": train, "model": dict(weights(0.0)), "evaluate": lambda model: 0.5}
    lines = loop.replace("rounds(10)", "rounds(2, poll=0.2, timeout=60)")
    lines = lines.replace("wait()", "wait(poll=0.2, timeout=60)")
    exec(
        lines.replace("round.load_into(model)  #", "model.update(round.load_into(model))  #"), scope
    )
    Federation().wait(poll=0.2, timeout=30)
    assert model.aggregates.exists()


def test_a_rejection_is_raised_with_its_reason(url: str) -> None:
    """The client learns at once, in the words of the server, why its update was rejected."""
    _, (token,) = model_of(1)
    member = Federation.enroll(url, token)
    member.fetch()
    Client.objects.update(paused=True)  # The API notices within half a minute, intake at once.
    member.submit(weights(1.0), num_examples=1)
    with pytest.raises(UpdateRejected, match="the client is paused"):
        member.wait(poll=0.2, timeout=30)


def test_a_rejected_update_can_be_sent_again(url: str) -> None:
    """After the cause is removed, the same content is a new update, and counts once."""
    model, (token,) = model_of(1)
    member = Federation.enroll(url, token)
    member.fetch()
    Client.objects.update(paused=True)
    first = member.submit(weights(1.0), num_examples=1)
    with pytest.raises(UpdateRejected):
        member.wait(poll=0.2, timeout=30)
    Client.objects.update(paused=False)
    again = member.submit(weights(1.0), num_examples=1)
    assert again != first
    assert member.wait(poll=0.2, timeout=30).number == 1
    assert member.submit(weights(1.0), num_examples=1) == again
    assert model.aggregates.count() == 1


def test_compressed_updates_are_sent_by_the_api(url: str) -> None:
    """A client of a model of differences sends its update in a quarter of the bytes."""
    model, (token,) = model_of(1, update_kind="differences")
    member = Federation.enroll(url, token)
    round_ = member.fetch()
    trained = {"w": round_.weights["w"] + np.float32(127)}
    member.submit(trained, num_examples=1, compression="int8")
    member.wait(poll=0.2, timeout=30)
    assert (member.fetch().weights["w"] == 127).all()
    assert (model.model_updates.get().size or 0) < 1500 < trained["w"].nbytes


def test_tokens_and_profiles_are_checked(url: str) -> None:
    """A wrong token, a used profile and a revoked secret have errors that say what to do."""
    _, tokens = model_of(2)
    with pytest.raises(AccessDenied, match="ask the operator"):
        Federation.enroll(url, "no-such-token")
    member = Federation.enroll(url, tokens[0])  # The profile of the failed attempt is used.
    with pytest.raises(BadArgument, match="is in use"):
        Federation.enroll(url, tokens[1])
    with pytest.raises(BadArgument, match="enroll with the token"):
        Federation(profile="nobody")
    path = Path(os.environ["FEDERATED_CLIENT_HOME"]) / "default.json"
    assert path.stat().st_mode & 0o777 == 0o600
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "secret": "wrong"}))
    with pytest.raises(CredentialsInvalid, match="wrong, or it was revoked"):
        Federation().latest()
    assert member.latest().number == 0


class LossyProxy(ThreadingHTTPServer):
    """Breaks each part's first attempts half-way, and answers 503 to a tenth of the other requests."""

    def __init__(self, target: str, seed: int, breaks: int) -> None:
        super().__init__(("127.0.0.1", 0), LossyHandler)
        self.target, self.breaks = target, breaks
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.broken: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def fate(self, method: str, path: str) -> str:
        """Return what happens to a request."""
        part = path.split("X-Amz")[0]
        with self.lock:
            if method == "PUT" and self.broken[part] < self.breaks:
                self.broken[part] += 1
                return "breaks"
            if self.random.random() < 0.1:
                return "refused"
            if method == "PUT":
                self.received[part] += 1
            return "passes"


class LossyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LossyProxy

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fate = self.server.fate(self.command, self.path)
        if fate == "breaks":
            self.rfile.read(length // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fate == "refused":
            self._send(503, {}, b"")
            return
        sent = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        answer = requests.request(
            self.command, self.server.target + self.path, data=body, headers=sent, timeout=30
        )
        self._send(answer.status_code, dict(answer.headers), answer.content)

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def do_PUT(self) -> None:
        self._pass()

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name in ("Content-Type", "ETag", "Retry-After"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def lossy(target: str, seed: int, breaks: int) -> Iterator[tuple[str, LossyProxy]]:
    """Serve a lossy proxy in front of a server."""
    proxy = LossyProxy(target, seed, breaks)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}", proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


def redirecting_links(monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """Send parts through a proxy, as a client's network does."""
    from federated_client import api

    original: Callable[..., Any] = api._Upload._send_part

    def through(self: Any, part: dict[str, Any], arrived: set[int]) -> None:
        _, _, rest = part["url"].partition("://")
        path = rest.partition("/")[2]
        original(self, {**part, "url": f"{to}/{path}"}, arrived)

    monkeypatch.setattr(api._Upload, "_send_part", through)
    monkeypatch.setattr(client_limits, "FIRST_PAUSE_SECONDS", 0.001)


def test_a_bad_connection_costs_only_what_was_lost(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is cut twice and a tenth of the requests is refused; every part arrives once."""
    elements = 12 * MIB // 4
    model, (token,) = model_of(1, elements)
    storage = str(default_storage.connection.meta.client.meta.endpoint_url)
    with lossy(storage, 1, breaks=2) as (through, proxy), lossy(url, 2, breaks=0) as (front, _):
        redirecting_links(monkeypatch, through)
        member = Federation.enroll(front, token)
        member.client.base = member.latest()
        key = member.submit(weights(2.0, elements), num_examples=1)
    assert list(proxy.received.values()) == [1, 1, 1]
    assert list(proxy.broken.values()) == [2, 2, 2]
    assert safetensors.numpy.load(get(key))["w"][0] == 2.0
    assert key.startswith(f"updates/{model.pk}/")


def test_a_killed_upload_continues(url: str, tmp_path: Path) -> None:
    """A process that is killed after a part has arrived; the next one sends only the others."""
    elements = 12 * MIB // 4
    _, (token,) = model_of(1, elements)
    Federation.enroll(url, token)
    path = tmp_path / "mine.safetensors"
    safetensors.numpy.save_file(weights(3.0, elements), path)
    script = (
        "import os, signal, sys\n"
        "from federated_client import Federation, api, limits\n"
        f"limits.PART_BYTES = {PART}\n"
        "send = api._Upload._send_part\n"
        "def once(self, part, arrived):\n"
        "    send(self, part, arrived)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "api._Upload._send_part = once\n"
        "f = Federation(); f.client.base = f.latest()\n"
        "f.client.upload_file(sys.argv[1], num_examples=1)\n"
    )
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "DATABASE", "BUCKET"))
    }
    clean["PYTHONPATH"] = str(PROJECT / "client" / "src")
    killed = subprocess.run([sys.executable, "-c", script, str(path)], env=clean, check=False)
    assert killed.returncode == -9
    member = Federation()
    member.client.base = member.latest()
    steps: list[int] = []
    key = member.client.upload_file(
        path, num_examples=1, progress=lambda sent, _: steps.append(sent)
    )
    assert steps[0] >= PART  # What the killed process has sent is not sent again.
    assert get(key) == path.read_bytes()


def test_the_command_line(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Enroll, pull, push, watch and status, with JSON for scripts."""
    _, (token,) = model_of(1)
    assert main(["enroll", url, "--token", token, "--name", "north"]) == 0
    pulled = tmp_path / "base.safetensors"
    assert main(["pull", str(pulled)]) == 0
    trained = tmp_path / "trained.safetensors"
    safetensors.numpy.save_file(weights(5.0), trained)
    assert main(["push", str(trained), "--num-examples", "7"]) == 0
    assert main(["watch", "--timeout", "30"]) == 0
    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["number"] == 1
    assert found["updates"][0]["state"] == "complete"
    assert main(["push", str(trained), "--num-examples", "0"]) == 1
    assert "num_examples" in capsys.readouterr().err


def test_models_of_frameworks_go_in_and_come_out() -> None:
    """A pytree and an estimator have the same weights after a round trip."""
    tree = {"dense": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}}
    flat = arrays_of(tree)
    assert list(flat) == ["dense/kernel", "dense/bias"]
    back = load_into(tree, {name: array + 1 for name, array in flat.items()})
    assert back["dense"]["kernel"][0, 0] == 2

    class Estimator:
        def get_params(self) -> dict[str, Any]:
            return {}

    estimator: Any = Estimator()
    estimator.coefs_, estimator.intercept_ = [np.ones(2), np.zeros(3)], np.ones(1)
    learned = arrays_of(estimator)
    assert set(learned) == {"coefs_.0", "coefs_.1", "intercept_"}
    load_into(estimator, {name: array + 1 for name, array in learned.items()})
    assert estimator.coefs_[1].tolist() == [1.0, 1.0, 1.0]
    assert settings.BUCKET

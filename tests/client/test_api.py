"""Clients that have nothing but a URL and a token: the package against the function in its real runtime."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from federated_client import (
    AccessDenied,
    BadArgument,
    ClientError,
    CredentialsInvalid,
    Federation,
    UpdateRejected,
)
from federated_client.command_line import main
from models_app.models import Client
from tests.client.members import constant, invited

pytestmark = [
    pytest.mark.usefixtures("database", "cloud"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

PROJECT = Path(__file__).parents[2]
WATCH = ("watch", "--timeout", "30", "--poll", "0.2")


def test_a_training_loop_of_ten_lines(url: str) -> None:
    """Two clients enroll, train for three rounds and report a score; the aggregates are their means."""
    model, tokens = invited(2, requirement="all_clients")
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
    model, (token,) = invited(1)
    Federation.enroll(url, token)

    def train(model: dict[str, Any]) -> None:
        model["w"] = np.asarray(model["w"]) + np.float32(1.0)

    scope = {"train": train, "model": dict(constant(0.0)), "evaluate": lambda model: 0.5}
    exec(loop.replace("rounds(10)", "rounds(2, poll=0.2, timeout=60)"), scope)
    Federation().wait(poll=0.2, timeout=30)
    assert model.aggregates.exists()


def test_a_rejection_is_raised_with_its_reason(url: str) -> None:
    """The client learns at once, in the words of the server, why its update was rejected."""
    _, (token,) = invited(1)
    member = Federation.enroll(url, token)
    member.fetch()
    Client.objects.update(paused=True)  # The API notices within half a minute, intake at once.
    member.submit(constant(1.0), num_examples=1)
    with pytest.raises(UpdateRejected, match="the client is paused"):
        member.wait(poll=0.2, timeout=30)


def test_a_rejected_update_can_be_sent_again(url: str) -> None:
    """After the cause is removed, the same content is a new update, and counts once."""
    model, (token,) = invited(1)
    member = Federation.enroll(url, token)
    member.fetch()
    Client.objects.update(paused=True)
    first = member.submit(constant(1.0), num_examples=1)
    with pytest.raises(UpdateRejected):
        member.wait(poll=0.2, timeout=30)
    Client.objects.update(paused=False)
    again = member.submit(constant(1.0), num_examples=1)
    assert again != first
    assert member.wait(poll=0.2, timeout=30).number == 1
    assert member.submit(constant(1.0), num_examples=1) == again
    assert model.aggregates.count() == 1


def test_compressed_updates_are_sent_by_the_api(url: str) -> None:
    """A client of a model of differences sends its update in a quarter of the bytes."""
    model, (token,) = invited(1, update_kind="differences")
    member = Federation.enroll(url, token)
    round_ = member.fetch()
    trained = {"w": round_.weights["w"] + np.float32(127)}
    member.submit(trained, num_examples=1, compression="int8")
    member.wait(poll=0.2, timeout=30)
    assert (member.fetch().weights["w"] == 127).all()
    assert (model.model_updates.get().size or 0) < 1500 < trained["w"].nbytes


def test_tokens_and_profiles_are_checked(url: str) -> None:
    """A wrong URL or token, a used profile and a revoked secret have errors that say what to do."""
    _, tokens = invited(2)
    with pytest.raises(BadArgument, match="expected a URL"):
        Federation.enroll("localhost", tokens[0])
    with pytest.raises(ClientError):
        Federation.enroll(f"{url}/wrong", tokens[0])
    with pytest.raises(BadArgument, match="has not been enrolled yet"):
        Federation()
    with pytest.raises(AccessDenied, match="ask the operator"):
        Federation.enroll(url, "no-such-token")
    member = Federation.enroll(url, tokens[0])  # The profile of the failed attempts is used.
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


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """Run a command with ``--json``, and return what it prints."""
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_command_line(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Enroll, pull, push, watch and status print JSON for scripts, and errors as well."""
    _, (token,) = invited(1)
    enrolled = run(capsys, "enroll", url, "--token", token, "--name", "north")
    assert run(capsys, "push", "x.npz", "--num-examples", "1", code=1)["error"] == "ClientError"
    pulled = run(capsys, "pull", str(tmp_path / "base.safetensors"))
    assert pulled == {"file": str(tmp_path / "base.safetensors"), "number": 0}
    trained = tmp_path / "trained.safetensors"
    safetensors.numpy.save_file(constant(5.0), trained)
    pushed = run(capsys, "push", str(trained), "--num-examples", "7")
    assert enrolled["client"] in pushed["key"]
    watched = run(capsys, *WATCH)
    assert watched["number"] == 1
    assert (watched["update"]["key"], watched["update"]["state"]) == (pushed["key"], "complete")
    found = run(capsys, "status")
    assert (found["number"], found["updates"][0]["state"]) == (1, "complete")
    refused = run(capsys, "push", str(trained), "--num-examples", "0", code=1)
    assert refused["error"] == "BadWeights"
    assert "num_examples" in refused["detail"]


def test_pushes_keep_what_compression_left_out(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each push is a process of its own; what one leaves out, the next one sends."""
    _, (token,) = invited(1, update_kind="differences", elements=200)
    run(capsys, "enroll", url, "--token", token)
    base, trained = tmp_path / "base.safetensors", tmp_path / "trained.safetensors"
    step = np.arange(200, dtype=np.float32)
    for number in (1, 2):
        run(capsys, "pull", str(base))
        safetensors.numpy.save_file({"w": safetensors.numpy.load_file(base)["w"] + step}, trained)
        options = ("--num-examples", "7", "--compression", "topk")
        run(capsys, "push", str(trained), *options)
        assert run(capsys, *WATCH)["number"] == number
        (residual,) = (tmp_path / "profiles").glob("*.safetensors")
        assert residual.stat().st_mode & 0o777 == 0o600
    run(capsys, "pull", str(base))
    received = safetensors.numpy.load_file(base)["w"]
    left = safetensors.numpy.load_file(residual)["w"]
    # Two hundredths are sent each time: 199 and 198, then twice the two numbers below them.
    assert received[-4:].tolist() == [2 * 196, 2 * 197, 198, 199]
    np.testing.assert_array_equal(received + left, 2 * step)


def test_a_new_process_sends_what_the_last_one_left_out(url: str) -> None:
    """The residual of a compressed update is kept beside the profile, for the next `Federation`."""
    _, (token,) = invited(1, update_kind="differences", elements=200)
    Federation.enroll(url, token)
    step = np.arange(200, dtype=np.float32)
    for number in (1, 2):
        member = Federation()
        member.submit({"w": member.fetch().weights["w"] + step}, num_examples=1, compression="topk")
        assert member.wait(poll=0.2, timeout=30).number == number
    received = Federation().fetch().weights["w"]
    np.testing.assert_array_equal(received + member.client.residual["w"], 2 * step)

"""The migrating function runs the commands of operators, as docs/deploy.md describes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import safetensors.numpy
from django.conf import settings
from django.core.management import CommandError
from django.utils.timezone import now

from connectors import application
from connectors.runtime.remote_commands import AGGREGATOR_EVENTS, remote_commands
from connectors.storage.keys import pointer_key
from connectors.storage.seeds import SeedVault
from local.cloud import Cloud
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate
from tests.deploy.aws_calls import OPERATOR, recorder
from tests.deploy.policy import Need
from tests.deploy.stack import ROOT
from tests.factories import client_id, filled, get, make_model, put, ready_update, s3_record, upload
from tests.private_models import KMS_KEY
from tests.test_lambda_handler import Context, invoke
from tests.untyped import default_storage

TEXT = (ROOT / "docs" / "deploy.md").read_text()
WEIGHTS = safetensors.numpy.save(filled(0.0))
BUCKET = "federation"
GIVEN = f"s3://{BUCKET}/artifacts/initial/digits.safetensors"

pytestmark = pytest.mark.usefixtures("database", "cloud")
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def operate(event: Any) -> Any:
    """Invoke the migrating function."""
    from lambda_handler import migrate

    return migrate(event, Context())  # type: ignore[arg-type]


def run(name: str, *arguments: Any) -> str:
    """Return what the shell function `operate` of the documentation prints."""
    return str(operate({"command": name, "arguments": [*map(str, arguments)]})["output"])


def documented_commands() -> list[list[str]]:
    """Return the words of each `operate` command in docs/deploy.md."""
    lines = re.findall(r"^operate ([a-z][^>\n]+)", TEXT.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(line.replace("$bucket", BUCKET), comments=True) for line in lines]


def round_of(model: FederatedModel, value: float) -> ModelAggregate:
    """Let the aggregating function aggregate one update."""
    latest = model.aggregates.order_by("-number").first()
    record = upload(model, 1, filled(value), base=latest)
    (answer,) = invoke({"Records": [record]})["rounds"]
    return ModelAggregate.objects.get(pk=answer["aggregate_id"])


def posted(post: Any, body: bytes) -> dict[str, Any]:
    """Send a presigned post, and return the record of the notification."""
    file = ("mine.safetensors", body)
    answer = requests.post(post["url"], data=post["fields"], files={"file": file}, timeout=10)
    answer.raise_for_status()
    key = post["fields"]["key"].replace("${filename}", "mine.safetensors")
    return s3_record(key, s3().head_object(Bucket=BUCKET, Key=key)["ETag"].strip('"'), len(body))


def s3() -> Any:
    """Return the S3 client of the storage."""
    storage: Any = default_storage
    return storage.connection.meta.client


def trained(post: Any, value: float) -> None:
    """Send an update by a presigned post, and let the aggregating function aggregate it."""
    (answer,) = invoke({"Records": [posted(post, safetensors.numpy.save(filled(value)))]})["rounds"]
    assert answer["status"] == "published"


def with_existing_ids(name: str, words: list[str]) -> list[Any]:
    """Replace the id of a documented command by that of the model or of its first aggregate."""
    if not (words and words[0].isdecimal()):
        return words
    model = FederatedModel.objects.get()
    of_an_aggregate = name in ("verify", "publish", "download", "rollback")
    return [model.aggregates.earliest("pk").pk if of_an_aggregate else model.pk, *words[1:]]


def test_the_documented_commands_work_in_order() -> None:
    """Each command of the page, in its order, has the effect that the page describes, from initial weights
    to a version and a rollback."""
    put("artifacts/initial/digits.safetensors", WEIGHTS)
    posts: list[Any] = []
    for name, *words in documented_commands():
        if name == "pause":
            trained(posts[1], 2.0)
        output = run(name, *with_existing_ids(name, words))
        assert output
        if name == "issue_upload":
            posts = json.loads(output)
            trained(posts[0], 1.0)
    model = FederatedModel.objects.get()
    assert model.allow_aggregation
    assert model.current_artifact
    assert model.current_artifact.version == "1.0.0"
    first, second, third = (get(str(each.result.name)) for each in model.aggregates.order_by("pk"))
    assert third == first != second
    assert json.loads(get(pointer_key(model.pk)))["number"] == 3


def first_aggregate(model: FederatedModel) -> Any:
    """Create two aggregates, and return the id of the first."""
    first, _ = round_of(model, 1.0), round_of(model, 2.0)
    return first.pk


def new_round(model: FederatedModel) -> Any:
    """Create a row of a round, and return its id."""
    return model.rounds.create(number=1, state=1, started_on=now(), lease_expires_at=now()).pk


def with_data_key(model: FederatedModel) -> int:
    """Return the id of a model whose seeds have a data key."""
    SeedVault(application.objects(), KMS_KEY).draw(model.pk)
    return model.pk


#: Arguments with which a command has something to do; other commands get the id of a model.
ARGUMENTS: dict[str, Callable[[FederatedModel], list[Any]]] = {
    **dict.fromkeys(("models", "clients", "doctor", "redrive"), lambda _: []),
    **dict.fromkeys(("pause_client", "resume_client", "revoke_client"), lambda _: [client_id(1)]),
    **dict.fromkeys(("verify", "rollback"), lambda model: [first_aggregate(model)]),
    "create_model": lambda _: ["another"],
    "add_clients": lambda model: [model.pk, "--clients", "1"],
    "remove_client": lambda model: [model.pk, client_id(1)],
    "rename_client": lambda _: [client_id(1), "hospital-north"],
    "client_policy": lambda model: [model.pk, client_id(1)],
    "set_model": lambda model: [model.pk, "--max-num-examples", "5000"],
    "issue_upload": lambda model: [model.pk, "--client", client_id(1)],
    "destroy_seeds": lambda model: [with_data_key(model)],
    "estimate_privacy": lambda _: ["--rounds", "10", "--cohort", "100", "--epsilon", "8"],
    "prune": lambda _: ["--older-than", "180d"],
    "show_round": lambda model: [new_round(model)],
    "publish": lambda model: [first_aggregate(model), "--version", "1.0"],
    "download": lambda model: [first_aggregate(model), "--link"],
    "export_metrics": lambda model: [round_of(model, 1.0).federated_model_id, "--out", "-"],
}


@on_sqlite
@pytest.mark.parametrize("name", remote_commands())
def test_each_command_does_its_work(name: str) -> None:
    """Every command reports what it did, and its AWS calls are allowed by its role."""
    model = make_model(1)
    arguments = ARGUMENTS[name](model) if name in ARGUMENTS else [model.pk]
    assert run(name, *arguments)


@on_sqlite
def test_calls_of_threads_belong_to_the_command() -> None:
    """The AWS calls of a command's threads are compared with the operators' role, not with the other."""
    aggregate = round_of(make_model(1), 1.0)
    recorder.forget()
    run("verify", aggregate.pk)
    assert {use.role for use in recorder.latest} == {OPERATOR}
    update = f"${{Bucket.Arn}}/{aggregate.updates_applied.get().data.name}"
    assert Need("s3:GetObjectVersion", update) in [use.need for use in recorder.latest]


@on_sqlite
def test_differences_in_the_function_are_documented() -> None:
    """The table of the page names existing commands, and all commands that are refused."""
    section = TEXT.split("\n## Operate\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)[` ]", row)}
    assert named <= {*remote_commands(), *AGGREGATOR_EVENTS}
    assert named >= AGGREGATOR_EVENTS.keys()


@on_sqlite
def test_initial_weights_come_from_the_bucket() -> None:
    """A new model has its own copy of the named object, and `latest.json` points to it."""
    put("artifacts/initial/digits.safetensors", WEIGHTS)
    put("artifacts/initial/schema.json", b'{"type": "object", "required": ["loss"]}')
    schema = "s3://federation/artifacts/initial/schema.json"
    run("create_model", "digits", "--initial", GIVEN, "--score-schema", schema)
    model = FederatedModel.objects.get()
    assert model.client_agg_results_schema == {"type": "object", "required": ["loss"]}
    assert model.current_artifact
    key = str(model.current_artifact.values.name)
    assert key.startswith(f"artifacts/{model.pk}/initial-")
    assert get(key) == WEIGHTS
    assert json.loads(get(pointer_key(model.pk)))["key"] == key


@on_sqlite
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (GIVEN, "the object is not there"),
        ("s3://another/artifacts/a.safetensors", "the federation's is federation"),
        ("s3://federation/artifacts/garbage.safetensors", "does not hold weights"),
        ("s3://federation/artifacts/weights.pickle", "in none of the formats"),
        ("s3://federation/", "does not name an object"),
        ("weights.safetensors", "the function reads objects only"),
    ],
)
def test_invalid_initial_weights_are_refused(given: str, why: str, in_the_function: None) -> None:
    """Without a bucket object that contains weights, nothing is created."""
    put("artifacts/garbage.safetensors", b"garbage")
    put("artifacts/weights.pickle", WEIGHTS)
    with pytest.raises(CommandError, match=re.escape(why)):
        run("create_model", "digits", "--initial", given)
    assert not FederatedModel.objects.exists()


def keys(prefix: str) -> set[str]:
    """Return the keys below a prefix, including unfinished uploads."""
    objects = application.objects()
    return {each.key for each in objects.orphans(prefix)}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy an object of a few bytes in several parts."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", 64)


@pytest.fixture
def while_copied(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], None]:
    """Return a function that runs an action once, when the first part of a copy is stored."""
    events = s3().meta.events

    def on_first_part(action: Callable[[], Any]) -> None:
        def once(**_: Any) -> None:
            events.unregister("before-call.s3.UploadPart", once)
            action()

        events.register("before-call.s3.UploadPart", once)
        request.addfinalizer(lambda: events.unregister("before-call.s3.UploadPart", once))

    return on_first_part


@on_sqlite
@pytest.mark.usefixtures("small_parts")
def test_initial_weights_that_are_replaced_are_refused(while_copied: Any) -> None:
    """If an object is replaced after it was checked, nothing of it is stored."""
    put("artifacts/initial/digits.safetensors", WEIGHTS)
    while_copied(lambda: put("artifacts/initial/digits.safetensors", b"else"))
    with pytest.raises(CommandError, match="replaced"):
        run("create_model", "digits", "--initial", GIVEN)
    assert not FederatedModel.objects.exists()
    assert keys("artifacts/") == {"artifacts/initial/digits.safetensors"}


@on_sqlite
@pytest.mark.usefixtures("small_parts")
def test_a_failed_rollback_leaves_no_copy(while_copied: Any) -> None:
    """If the object of an aggregate is replaced during the copy, no part of the copy remains."""
    model = make_model(1)
    first, _ = round_of(model, 1.0), round_of(model, 2.0)
    before = keys("aggregates/")
    while_copied(lambda: put(str(first.result.name), b"else"))
    with pytest.raises(CommandError, match="replaced"):
        run("rollback", first.pk)
    assert keys("aggregates/") == before


@on_sqlite
def test_a_refused_rollback_removes_its_copy() -> None:
    """A rollback during a round is refused, and its copy is deleted."""
    model = make_model(1)
    first, second = round_of(model, 1.0), round_of(model, 2.0)
    before = keys("aggregates/")
    ready_update(model, 1, filled(3.0), base_aggregate=second)
    application.round_connector().claim_round(model.pk)
    with pytest.raises(CommandError, match="is running: pause the model, and roll back once"):
        run("rollback", first.pk)
    assert keys("aggregates/") == before


@on_sqlite
def test_a_link_downloads_the_aggregate() -> None:
    """The link alone gives access to the bytes of the aggregate."""
    aggregate = round_of(make_model(1), 1.0)
    place, link = run("download", aggregate.pk, "--link").splitlines()
    key = str(aggregate.result.name)
    assert place == f"s3://federation/{key}, {len(get(key))} bytes"
    assert requests.get(link, timeout=10).content == get(key)


@pytest.fixture
def in_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the settings as the environment of Lambda does."""
    monkeypatch.setattr(settings, "FUNCTION_MEMORY_MB", 1769)


@on_sqlite
@pytest.mark.usefixtures("in_the_function")
def test_the_function_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    """Nobody could read a file in the function, and a post expires with the function's credentials."""
    aggregate = round_of(make_model(1), 1.0)
    model = aggregate.federated_model_id
    for name, pk in (("download", aggregate.pk), ("export_metrics", model)):
        with pytest.raises(CommandError, match="a file in the function cannot be reached"):
            run(name, pk, "--out", tmp_path / "file.csv")
    with pytest.raises(CommandError, match="--minutes must be between 1 and 60"):
        run("issue_upload", model, "--client", client_id(1), "--minutes", 61)


@on_sqlite
def test_a_failed_command_returns_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails after it has printed something returns the output and the error."""
    assert "failed" not in run("doctor")
    monkeypatch.setattr(settings, "QUEUE_URL", f"{settings.QUEUE_URL}-gone")
    with pytest.raises(CommandError) as failure:
        run("doctor")
    assert "bucket federation" in str(failure.value)
    assert "1 of 8 checks failed" in str(failure.value)


@on_sqlite
def test_warnings_are_returned_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard error of a command is not mixed with the output, which scripts parse."""
    put("artifacts/initial/digits.safetensors", WEIGHTS)
    monkeypatch.setattr("connectors.publication.replacement.TRIES", 0)
    arguments = ["digits", "--initial", GIVEN, "--json"]
    answer = operate({"command": "create_model", "arguments": arguments})
    assert json.loads(answer["output"])["clients"] == []
    assert "the next sweep writes it" in answer["notes"]


@on_sqlite
def test_dead_letters_return_to_the_queue(cloud: Cloud) -> None:
    """`redrive` returns dead letters to the queue and requests rounds for failed updates."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0), status=ModelUpdate.Status.FAILED)
    cloud.client("sqs").send_message(QueueUrl=cloud.dead_letter_url, MessageBody="{}")
    output = run("redrive")
    assert "1 dead-lettered message moved back to the queue" in output
    assert "rounds requested of 1 model" in output


@on_sqlite
def test_a_paused_model_is_resumed() -> None:
    """An operator resumes a model from outside the network."""
    model = make_model(1, allow_aggregation=False)
    operate({"command": "resume", "arguments": [model.pk]})
    model.refresh_from_db()
    assert model.allow_aggregation


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_closed_connection_is_replaced(database: str) -> None:
    """An environment that was frozen for longer than a session lasts still answers."""
    run("models")
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert run("models")


@on_sqlite
@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"command": "create_model", "arguments": ["a", "--rule", "nonsense"]}, "nonsense"),
        ({"command": "rounds", "arguments": "17"}, "arguments are a list"),
        ({"command": "rounds", "arguments": {"model": 3}}, "arguments are a list"),
        ({"command": "rounds"}, "the following arguments are required: model"),
        ({"command": ["rounds"]}, "no command"),
        *(({"command": name}, "no command") for name in ("shell", "flush", "dbshell", "nonsense")),
    ],
)
def test_an_invalid_command_is_refused(event: Any, why: str) -> None:
    """The error names a wrong argument; only commands of the project can be run from outside."""
    with pytest.raises((CommandError, ValueError), match=why):
        operate(event)


@on_sqlite
@pytest.mark.parametrize("name", AGGREGATOR_EVENTS)
def test_rounds_are_requested_from_the_aggregating_function(name: str) -> None:
    """The refusal of a round names an event, which the aggregating function accepts."""
    with pytest.raises(ValueError, match="invoke that one with") as failure:
        operate({"command": name, "arguments": ["3"]})
    event = json.loads(str(failure.value).split(" with ", 1)[1])
    if name == "run_round":
        event["detail"]["model_id"] = make_model(1).pk
    assert invoke(event)


@on_sqlite
def test_help_is_returned() -> None:
    """`--help` returns what it prints elsewhere, and no option ends the function."""
    assert "usage: manage.py rounds" in run("rounds", "--help")
    assert operate({"command": "rounds", "arguments": ["--version"]}) == {"output": ""}


AWS = """
output() { echo arn:live; }
aws() { echo "$@" > called; eval "last=\\${$#}"; printf '%s' "$ANSWER" > "$last"; }
"""


@on_sqlite
@pytest.mark.parametrize(
    ("answer", "printed", "status"),
    [
        ({"output": "one\ntwo\n", "notes": "warning\n"}, ("one\ntwo\n", "warning\n"), 0),
        ({"errorType": "CommandError", "errorMessage": "no model"}, ("", "no model\n"), 1),
    ],
)
def test_the_shell_function_runs_commands(
    answer: Any, printed: tuple[str, str], status: int, tmp_path: Path
) -> None:
    """The `operate` of the page quotes its arguments, and separates output from errors."""
    (function,) = re.findall(r"^operate\(\) \(.*?^\)$", TEXT, re.DOTALL | re.MULTILINE)
    script = f"""{AWS}{function}\noperate pause 3 --reason 'worse on "site B"'"""
    path = f"{ROOT / '.venv' / 'bin'}:/usr/bin:/bin"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": path, "ANSWER": json.dumps(answer), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ((ran.stdout, ran.stderr), ran.returncode) == (printed, status)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("tmp")] == []
    called = (tmp_path / "called").read_text()
    payload = re.search(r"--payload (\{.*\}) ", called)
    assert payload
    assert json.loads(payload[1]) == {
        "command": "pause",
        "arguments": ["3", "--reason", 'worse on "site B"'],
    }


def test_a_client_is_invited_and_revoked() -> None:
    """Operators invite clients of the API, and revoke them, inside the network."""
    model = make_model(0)
    (invitation,) = json.loads(run("invite", model.pk, "--json"))
    assert len(invitation["token"]) >= 43
    assert "is revoked" in run("revoke_client", invitation["client"])

"""Every command with invalid input: it prints one line, exits with an error and changes nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from connectors.management.command_line import CommandLine
from models_app.models import FederatedModel, ModelAggregate, ModelArtifact
from tests.conftest import using_database
from tests.factories import client_id, filled, make_model
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("cloud")

Refused = Callable[..., str]
CLIENT, STRANGER = str(client_id(1)), str(client_id(9))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Return a function that runs a command which must fail, and returns its error message."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            CommandLine(["manage.py", *arguments, "--no-color"]).execute()
        assert ended.value.code not in (0, None)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert out == ""
        (message,) = err.splitlines()
        assert "rror: " in message
        return message

    return run


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Return files that are not what a command expects, by their names in the tables."""
    weights, text, folder = (tmp_path / name for name in ("w.safetensors", "text.npz", "folder"))
    weights.write_bytes(safetensors.numpy.save(filled(1.0)))
    text.write_text("no weights")
    values = np.array([[1, 2], [np.nan, 4]], np.float32)
    (tmp_path / "nan.safetensors").write_bytes(safetensors.numpy.save({"w": values}))
    folder.mkdir()
    (tmp_path / "w.txt").write_text("no suffix that is known")
    (tmp_path / "rounds.csv").touch()
    (tmp_path / "schema.json").write_text('{"type": "nonsense"}')
    return {
        "WEIGHTS": str(weights),
        "TEXT": str(text),
        "NAN": str(tmp_path / "nan.safetensors"),
        "FOLDER": str(folder),
        "UNKNOWN": str(tmp_path / "w.txt"),
        "THERE": str(tmp_path / "rounds.csv"),
        "NEW": str(tmp_path / "new.csv"),
        "SCHEMA": str(tmp_path / "schema.json"),
        "NOWHERE": str(tmp_path / "nowhere" / "file.csv"),
        "CLIENT": CLIENT,
        "STRANGER": STRANGER,
    }


NO_ID = "is not an id: manage.py"
NO_MODEL = "there is no federated model with the id or name '999': manage.py models lists"
NO_AGGREGATE = "there is no aggregate with id 999: manage.py lineage MODEL lists"
NO_CLIENT = "there is no client with the id or name 'me': manage.py clients lists"

#: Command lines, and a part of their messages. M is a model with one member, A its last aggregate.
INVALID = [
    # create_model
    ("run_round M --functions 0", "expected a whole number from 1 to 64; got '0'"),
    ("run_round M --functions -2", "expected a whole number from 1 to 64; got '-2'"),
    ("run_round M --functions 1e9", "expected a whole number from 1 to 64; got '1e9'"),
    ("run_round M --functions 65", "expected a whole number from 1 to 64; got '65'"),
    ("create_model", "the following arguments are required: name"),
    ("create_model ''", "name: This field cannot be blank"),
    (f"create_model {'x' * 256}", "name: Ensure this value has at most 255 characters"),
    ("create_model NAMED", "already has the name 'digits': choose another"),
    ("create_model new --initial NOWHERE", "cannot be read: No such file or directory"),
    ("create_model new --initial FOLDER", "does not hold weights"),
    ("create_model new --initial TEXT", "does not hold weights"),
    ("create_model new --initial UNKNOWN", "does not hold weights"),
    ("create_model new --rule nonsense", "--rule: unknown aggregation rule 'nonsense'; known are"),
    ("create_model new --rule trimmed_mean --rule-arg beta=2", "--rule: "),
    ("create_model new --rule-arg beta", "NAME=VALUE"),
    ("create_model new --requirement nonsense", "--requirement: unknown requirement"),
    ("create_model new --requirement-arg x=1", "--requirement: "),
    ("create_model new --furthest-base 0", "--furthest-base: Ensure this value is greater"),
    ("create_model new --furthest-base -3", "--furthest-base: Ensure this value is greater"),
    ("create_model new --furthest-base many", "expected a whole number; got 'many'"),
    ("create_model new --max-num-examples -1", "--max-num-examples: Ensure this value is greater"),
    (f"create_model new --max-num-examples {10**30}", "--max-num-examples: Ensure"),
    ("create_model new --update-kind gradients", "invalid choice: 'gradients'"),
    ("create_model new --update-kind differences", "needs initial weights: give --initial"),
    ("create_model new --clients -1", "--clients must be between 0 and 10000; got -1"),
    ("create_model new --clients 10001", "--clients must be between 0 and 10000"),
    ("create_model new --client ' me'", "expected printable characters without spaces"),
    ("create_model new --developer nobody", "there is no user 'nobody': manage.py createsuperuser"),
    ("create_model new --max-score-drop 0.1", "need a score: name it with --score-metric"),
    ("create_model new --lower-is-better", "need a score: name it with --score-metric"),
    (
        "create_model new --score-metric a --max-score-drop -1",
        "--max-score-drop must be 0 or more; got -1.0",
    ),
    (
        "create_model new --score-metric a --max-score-drop nan",
        "--max-score-drop must be 0 or more; got nan",
    ),
    ("create_model new --score-metric a --max-score-drop much", "expected a number; got 'much'"),
    ("create_model new --score-schema NOWHERE", "--score-schema: "),
    ("create_model new --score-schema TEXT", "is not a JSON schema"),
    ("create_model new --score-schema SCHEMA", "is not a JSON schema: not a JSON schema"),
    ("create_model new --update-schema TEXT", "--update-schema: "),
    ("create_model new --initial NAN", "has nan in tensor 'w' at [1, 0]: no round could continue"),
    # set_model
    ("set_model 999 --rule krum", NO_MODEL),
    ("set_model M", "no setting is given: --help lists the settings"),
    ("set_model M --rule nonsense", "--rule: unknown aggregation rule 'nonsense'; known are"),
    ("set_model M --rule-arg beta=0.1", "weighted_mean takes no arguments"),
    ("set_model M --requirement quorum", "--requirement: quorum takes the arguments"),
    ("set_model M --max-num-examples 0", "--max-num-examples: Ensure this value is greater"),
    ("set_model M --max-num-examples many", "expected a whole number; got 'many'"),
    ("set_model M --max-score-drop 0.1", "need a score: name it with --score-metric"),
    ("set_model M --name ''", "name: This field cannot be blank"),
    ("set_model M --developer nobody", "there is no user 'nobody'"),
    ("set_model M --score-schema SCHEMA", "is not a JSON schema"),
    # clients
    ("add_clients 999 --clients 1", NO_MODEL),
    (
        "add_clients 999999999999999999999999 --clients 1",
        "there is no federated model with the id or name",
    ),
    ("add_clients M", "no client is given: --clients N creates N"),
    ("add_clients M --clients 0", "no client is given: --clients N creates N"),
    ("add_clients M --clients -2", "--clients must be between"),
    (f"add_clients M --client {'x' * 101}", "at most 100 characters"),
    ("remove_client 999 CLIENT", NO_MODEL),
    ("remove_client M STRANGER", "there is no client with the id or name"),
    ("remove_client M me", NO_CLIENT),
    ("pause_client me", NO_CLIENT),
    ("resume_client me", NO_CLIENT),
    ("rename_client me you", NO_CLIENT),
    (f"rename_client CLIENT {STRANGER}", "must not look like an id"),
    ("clients 999", NO_MODEL),
    # looking
    ("rounds 999", NO_MODEL),
    ("rounds nonesuch", "there is no federated model with the id or name 'nonesuch'"),
    (f"rounds {10**30}", "there is no federated model with the id or name"),
    ("rounds M --limit 0", "expected a whole number from 1 to 1000000; got '0'"),
    ("rounds M --limit -5", "expected a whole number from 1"),
    ("updates 999", NO_MODEL),
    ("updates M --status lost", "invalid choice: 'lost'"),
    ("updates M --limit all", "expected a whole number from 1"),
    ("show_round 999", "there is no round with id 999: manage.py rounds MODEL lists"),
    ("show_round last", NO_ID),
    ("lineage 999", NO_MODEL),
    ("models --limit x", "expected a whole number from 1 to 1000000"),
    ("export_metrics 999 --out NEW", NO_MODEL),
    ("export_metrics M", "the following arguments are required: --out"),
    ("export_metrics M --out FOLDER", "must end with one of .csv, .parquet"),
    ("export_metrics M --out THERE", "choose another name, or replace it with --force"),
    ("export_metrics M --out NOWHERE", "cannot be written: there is no directory"),
    ("export_metrics M --of losses --out NEW", "invalid choice: 'losses'"),
    ("export_metrics M --of scores --out NEW", "has no scores yet: there is nothing to export"),
    ("download 999 --out NEW", NO_AGGREGATE),
    ("download A --out THERE", "choose another name, or replace it with --force"),
    ("download A --out FOLDER", "is a directory: name a file in it"),
    ("download A --out FOLDER --force", "is a directory: name a file in it"),
    ("download A --out NOWHERE", "cannot be written: there is no directory"),
    # acting
    ("run_round 999", NO_MODEL),
    ("pause 999", NO_MODEL),
    ("resume 999", NO_MODEL),
    ("publish 999 --version 1", NO_AGGREGATE),
    ("publish A", "the following arguments are required: --version"),
    ("publish A --version=", "is not a version: expected numbers with dots, such as 1.2.0"),
    ("publish A --version ' '", "is not a version: expected numbers with dots"),
    ("publish A --version banana", "'banana' is not a version: expected numbers with dots"),
    ("publish A --version 1.0banana", "is not a version"),
    ("publish A --version 1..0", "is not a version"),
    (f"publish A --version {'1' * 256}", "at most 255 characters"),
    ("publish A --version 1.0", "has a version '1.0' already: versions never change"),
    ("rollback 999", NO_AGGREGATE),
    ("rollback A", "is the latest already: there is nothing to roll back"),
    ("verify 999", NO_AGGREGATE),
    ("sweep --older-than -1", "expected minutes, 0 or more; got '-1'"),
    ("sweep --older-than nan", "expected minutes, 0 or more; got 'nan'"),
    ("sweep --older-than 1e300", "expected minutes, 0 or more"),
    ("prune", "the following arguments are required: --older-than"),
    ("prune --older-than 3", "expected an age such as 180d, 36h or 90m; got '3'"),
    ("prune --older-than nand", "expected an age such as 180d"),
    ("prune --older-than 1d", "the age must be 30d or more"),
    ("invite M --expires 0h", "expected an age such as 180d, 36h or 90m; got '0h'"),
    ("doctor please", "unrecognized arguments: please"),
    # posts
    ("issue_upload M", "the following arguments are required: --client"),
    ("issue_upload 999 --client CLIENT", NO_MODEL),
    ("issue_upload M --client STRANGER", "there is no client with the id or name"),
    ("issue_upload M --client me", NO_CLIENT),
    ("issue_upload M --client CLIENT --count 0", "between 1 and 1000, or 0 with --scores; got 0"),
    ("issue_upload M --client CLIENT --count -1 --scores", "--count must be between 1 and 1000"),
    ("issue_upload M --client CLIENT --minutes 0", "--minutes must be between 1 and 10080"),
    ("issue_upload M --client CLIENT --minutes 10081", "--minutes must be between 1 and 10080"),
    ("issue_upload M --client CLIENT --max-bytes -1", "--max-bytes must be between 1 and"),
]


@pytest.fixture(scope="module")
def world(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Create a database with a model of three aggregates, of which the first is a version."""
    path = tmp_path_factory.mktemp("world") / "world.sqlite3"
    shutil.copyfile(migrated_sqlite, path)
    with using_database(f"sqlite:///{path}"):
        model, parent = make_model(1), None
        FederatedModel.objects.filter(pk=model.pk).update(name="digits")
        for number in (1, 2, 3):
            parent = ModelAggregate.objects.create(
                federated_model=model, parent=parent, number=number, result=f"aggregates/{number}"
            )
        ModelArtifact.objects.create(federated_model=model, values="aggregates/1", version="1.0")
        model.rounds.create(
            number=1,
            state=1,
            lease_expires_at="2026-11-24T00:00:00Z",
            started_on="2026-11-24T00:00:00Z",
        )
        yield path


def typed(line: str, names: dict[str, str]) -> list[str]:
    """Return the arguments that a line of a table stands for."""
    return [names.get(word, word) for word in shlex.split(line)]


def in_world(places: dict[str, str]) -> dict[str, str]:
    latest = ModelAggregate.objects.order_by("-number")[0]
    return {**places, "M": str(latest.federated_model_id), "A": str(latest.pk), "NAMED": "digits"}


@pytest.mark.parametrize(("line", "why"), INVALID)
def test_an_error_is_one_line(
    refused: Refused, world: Path, places: dict[str, str], line: str, why: str
) -> None:
    """The message says what is wrong and what to do; the database is unchanged."""
    assert why in refused(*typed(line, in_world(places)))
    assert (FederatedModel.objects.count(), ModelArtifact.objects.count()) == (1, 1)


#: A valid line of each command that uses the database.
VALID = [
    "create_model new --initial WEIGHTS",
    "add_clients 1 --clients 1",
    "remove_client 1 CLIENT",
    "clients 1",
    "pause_client CLIENT",
    "resume_client CLIENT",
    "rename_client CLIENT ward",
    "set_model 1 --max-num-examples 9",
    "models",
    "rounds 1",
    "updates 1",
    "show_round 1",
    "lineage 1",
    "export_metrics 1 --out NEW",
    "download 1 --out NEW",
    "run_round 1",
    "pause 1",
    "resume 1",
    "publish 1 --version 2",
    "rollback 1",
    "verify 1",
    "sweep",
    "redrive",
    "prune --older-than 180d",
    "issue_upload 1 --client CLIENT",
]


@pytest.mark.parametrize("line", VALID)
@pytest.mark.parametrize("database_name", ["empty.sqlite3", "nowhere/db.sqlite3"])
def test_a_database_that_is_not_ready_is_reported(
    refused: Refused, tmp_path: Path, places: dict[str, str], line: str, database_name: str
) -> None:
    """Without tables, or without a database, a command says so and points to the doctor."""
    with using_database(f"sqlite:///{tmp_path / database_name}"):
        message = refused(*typed(line, places))
    assert "`manage.py doctor` finds the cause" in message
    assert ("no such table" if "empty" in database_name else "unable to open") in message


@pytest.fixture
def no_bucket() -> Iterator[None]:
    """Use a bucket that does not exist."""
    storage: Any = default_storage
    before = storage.bucket_name
    storage.bucket_name, storage._bucket = "gone", None
    yield
    storage.bucket_name, storage._bucket = before, None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("create_model new --initial WEIGHTS", "`manage.py doctor` finds the cause"),
        ("download A --out NEW", "the object is not there"),
        ("rollback FIRST", "the object is not there"),
        ("verify A", "no round is known that made"),
    ],
)
def test_a_missing_bucket_is_reported(
    refused: Refused,
    world: Path,
    places: dict[str, str],
    no_bucket: None,
    line: str,
    why: str,
) -> None:
    """Commands that read or write weights say that they cannot."""
    first = ModelAggregate.objects.get(number=1)
    assert why in refused(*typed(line, {**in_world(places), "FIRST": str(first.pk)}))


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        (
            {},
            "wrong: DATABASE_URL is not set; exactly one of BUCKET (an S3 bucket) and STORAGE_ROOT",
        ),
        (
            {"DATABASE_URL": "sqlite:///x"},
            "exactly one of BUCKET (an S3 bucket) and STORAGE_ROOT (a directory) must be set",
        ),
        (
            {"DATABASE_URL": "mysql://h/x", "STORAGE_ROOT": "x"},
            "DATABASE_URL must begin with sqlite:/// or postgres://",
        ),
        (
            {"DATABASE_URL": "sqlite:///x", "STORAGE_ROOT": "x", "READ_THREADS": "many"},
            "READ_THREADS",
        ),
    ],
)
def test_invalid_settings_are_reported(environment: dict[str, str], why: str) -> None:
    """A setting that is missing or invalid is named in one line before a command runs."""
    ended = subprocess.run(
        [sys.executable, "manage.py", "models"],
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    (message,) = ended.stderr.splitlines()
    assert why in message

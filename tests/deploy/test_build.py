"""What `sam build` makes of the project: its size, what is in it, and that the runtime runs it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import boto3
import pytest
import safetensors.numpy

from local.cloud import Cloud
from local.lambda_runtime import ARCHITECTURES, LambdaRuntime
from local.package import SERVICES, interpreter
from tests.conftest import using_database
from tests.deploy.stack import ROOT, template
from tests.factories import client_id, filled, make_model, s3_record, sqs_event

#: Of what Lambda unpacks from a zip at most.
LIMIT_BYTES = 250 * 2**20

#: What the project aims at: a cold start without a snapshot loads the zip first.
BAR_BYTES = 130 * 2**20

RUNTIME = template()["Globals"]["Function"]["Runtime"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The aggregating function, built for the processor of this machine."""
    folder = tmp_path_factory.mktemp("build")
    architecture = ARCHITECTURES[platform.machine().lower()]
    result = subprocess.run(
        [
            *(Path(sys.executable).parent / "sam", "build", "AggregatorFunction"),
            *("--build-dir", folder, "--parameter-overrides", f"Architecture={architecture}"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ARCHITECTURE": architecture,
            "PYTHON": sys.executable,
            "SAM_CLI_TELEMETRY": "0",
            "AWS_DEFAULT_REGION": "eu-central-1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "AggregatorFunction"


@pytest.fixture(scope="module")
def runtime_python() -> str:
    """The Python of the runtime, wherever this machine has it."""
    found = interpreter(RUNTIME.removeprefix("python"))
    if found is None:
        pytest.skip(f"no {RUNTIME} on the PATH nor in pyenv: what was built is looked at, not run")
    return found


@pytest.fixture(scope="module")
def runtime_client(runtime_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AWS's runtime client for that Python: on Lambda it is there already, so it is not built in."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.run(
        [
            *(runtime_python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--target", folder, f"awslambdaric=={version('awslambdaric')}"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def test_it_is_small(built: Path) -> None:
    """What Lambda unpacks is far below its limit."""
    size = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    print(f"unpacked: {size / 2**20:.1f} MiB of {LIMIT_BYTES / 2**20:.0f}")
    assert size < BAR_BYTES < LIMIT_BYTES


def test_only_what_runs_is_in_it(built: Path) -> None:
    """Neither the tests nor the embedded cloud are deployed, nor AWS services nobody calls."""
    names = {path.name for path in built.iterdir()}
    assert {"lambda_handler.py", "settings.py", "aggregation", "connectors", "models_app"} <= names
    assert not {"tests", "local", "benchmarks", "docs", "moto", "events", ".venv"} & names
    services = {path.name for path in (built / "botocore" / "data").iterdir() if path.is_dir()}
    assert services == SERVICES
    assert not list(built.rglob("tests"))


def test_it_is_compiled_for_the_runtime(built: Path, runtime_python: str) -> None:
    """Byte code of the runtime's version is there, and holds whatever unpacking does to file times:
    `/var/task` is read-only, so otherwise each cold start would compile everything."""
    tag = RUNTIME.replace("python", "cpython-").replace(".", "")
    compiled = built / "django" / "db" / "__pycache__" / f"__init__.{tag}.pyc"
    flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
    assert flags == 0b01  # by hash, and unchecked


def test_it_publishes_a_round(
    built: Path,
    runtime_python: str,
    runtime_client: Path,
    cloud: Cloud,
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    """What was built, in the Lambda runtime on the runtime's Python, turns an upload into an aggregate
    without any package of this machine."""
    environment = cloud.environment() | {
        "DATABASE_URL": sqlite_url,
        "PYTHONPATH": str(runtime_client),
        "DJANGO_SETTINGS_MODULE": "settings",
        "POWERTOOLS_SERVICE_NAME": "tests",
        "POWERTOOLS_METRICS_NAMESPACE": "tests",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }
    log = tmp_path / "log"
    with (
        using_database(sqlite_url),
        LambdaRuntime(
            environment=environment, project=built, log=log, python=runtime_python
        ) as function,
    ):
        model = make_model(1, requirement="all_clients")
        key = f"updates/{model.pk}/{client_id(1)}/round-1.safetensors"
        body = safetensors.numpy.save(filled(2.0))
        stored = boto3.client("s3").put_object(
            Bucket=cloud.bucket, Key=key, Body=body, Metadata={"num-examples": "3"}
        )
        record = s3_record(key, stored["ETag"].strip('"'), len(body))
        answer = function.invoke(sqs_event(json.dumps({"Records": [record]})))
        assert answer == {"batchItemFailures": []}, log.read_text()
        assert model.aggregates.count() == 1, log.read_text()

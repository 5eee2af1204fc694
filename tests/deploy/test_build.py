"""The result of `sam build`: its size, its content, and that the runtime runs it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import boto3
import grimp
import pytest
import safetensors.numpy
from samtranslator.yaml_helper import yaml_parse

from local.cloud import Cloud
from local.lambda_runtime import ARCHITECTURES, LambdaRuntime
from local.package import NOT_DEPLOYED, SERVICES, interpreter
from tests.conftest import using_database
from tests.deploy.practices import of_type
from tests.deploy.stack import ROOT, nested, template
from tests.factories import client_id, filled, make_model, s3_record, sqs_event

#: Maximum of the bytes that Lambda unpacks from a zip.
LIMIT_BYTES = 250 * 2**20

#: Target of the project: a cold start without a snapshot loads the zip first.
BAR_BYTES = 130 * 2**20

RUNTIME = template()["Globals"]["Function"]["Runtime"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the aggregating function for the processor of this machine."""
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
    return folder


@pytest.fixture(scope="module")
def package(built: Path) -> Path:
    """Return the content of the function's zip."""
    return built / "AggregatorFunction"


@pytest.fixture(scope="module")
def runtime_python() -> str:
    """Find the Python of the runtime on this machine."""
    found = interpreter(RUNTIME.removeprefix("python"))
    if found is None:
        pytest.skip(f"no {RUNTIME} on the PATH or in pyenv: the result is inspected but not run")
    return found


@pytest.fixture(scope="module")
def runtime_client(runtime_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install AWS's runtime client for that Python: Lambda has it, so it is not part of the zip."""
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


def test_the_package_is_small(package: Path) -> None:
    """The unpacked package is far below the limit of Lambda."""
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    print(f"unpacked: {size / 2**20:.1f} MiB of {LIMIT_BYTES / 2**20:.0f}")
    assert size < BAR_BYTES < LIMIT_BYTES


def test_only_deployed_code_is_packaged(package: Path) -> None:
    """The package has no tests, no embedded cloud, no cost estimate and no unused AWS services."""
    names = {path.name for path in package.iterdir()}
    assert {"lambda_handler.py", "settings.py", "aggregation", "connectors", "models_app"} <= names
    assert not {"tests", "local", "benchmarks", "costs", "docs", "moto", "events", ".venv"} & names
    services = {path.name for path in (package / "botocore" / "data").iterdir() if path.is_dir()}
    assert services == SERVICES
    assert not list(package.rglob("tests"))
    assert not [name for name in NOT_DEPLOYED if (package / name).exists()]


def test_deployed_code_does_not_import_what_is_not_deployed() -> None:
    """No deployed module imports one that is left out, except the lazy name `aggregation.aggregate`."""
    names = {name.removesuffix(".py").replace("/", ".") for name in NOT_DEPLOYED}
    graph = grimp.build_graph("aggregation", "connectors", "models_app")
    assert names - graph.modules == {"models_app.static", "models_app.templates"}
    left_out = names & graph.modules
    left_out |= set().union(*(graph.find_descendants(name) for name in left_out))
    importers = {
        (by, one) for one in left_out for by in graph.find_modules_that_directly_import(one)
    }
    assert {(by, one) for by, one in importers if by not in left_out} == {
        ("aggregation", "aggregation.api")
    }


def test_every_function_has_a_target() -> None:
    """`sam build` calls a target of the Makefile for each function that needs the dependencies."""
    targets = re.findall(r"build-(\w+)", (ROOT / "Makefile").read_text())
    resources = template()["Resources"] | template("mask_keeper/template.yaml")["Resources"]
    built = [
        name
        for name, resource in resources.items()
        if resource.get("Metadata", {}).get("BuildMethod") == "makefile"
    ]
    functions = {"AggregatorFunction", "ApiFunction", "MigrationFunction", "WorkerFunction"}
    assert functions | {"MaskKeeperFunction"} == set(built)
    assert set(built) == set(targets)


def test_nested_templates_are_built(built: Path) -> None:
    """`sam build` puts each nested template next to the application's."""
    stacks = of_type(
        yaml_parse((built / "template.yaml").read_text()), "AWS::CloudFormation::Stack"
    )
    urls = {name: properties["TemplateURL"] for name, properties in stacks}
    assert urls.keys() == nested().keys()
    for name, url in urls.items():
        found = yaml_parse((built / url).read_text())["Resources"]
        assert found.keys() == yaml_parse((ROOT / nested()[name]).read_text())["Resources"].keys()


def test_the_package_is_compiled(package: Path, runtime_python: str) -> None:
    """The byte code fits the version of the runtime and does not depend on file times, which unpacking
    changes: `/var/task` is read-only, so otherwise each cold start would compile everything."""
    tag = RUNTIME.replace("python", "cpython-").replace(".", "")
    compiled = package / "django" / "db" / "__pycache__" / f"__init__.{tag}.pyc"
    flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
    assert flags == 0b01  # an unchecked hash


def test_the_package_knows_the_endpoints_of_its_services(
    package: Path, runtime_python: str
) -> None:
    """The descriptions and endpoints that are left of botocore suffice for each service."""
    code = """
import boto3, sys
for service in sys.argv[1:]:
    print(boto3.client(service, region_name="eu-central-1").meta.endpoint_url)
"""
    printed = subprocess.run(
        [runtime_python, "-c", code, *sorted(SERVICES)],
        env={"PYTHONPATH": str(package), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    hosts = {"stepfunctions": "states"}
    assert printed.split() == [
        f"https://{hosts.get(service, service)}.eu-central-1.amazonaws.com"
        for service in sorted(SERVICES)
    ]


def test_the_package_publishes_a_round(
    package: Path,
    runtime_python: str,
    runtime_client: Path,
    cloud: Cloud,
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    """In the Lambda runtime, on the runtime's Python and without packages of this machine, the package
    turns an upload into an aggregate."""
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
            environment=environment, project=package, log=log, python=runtime_python
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

"""A cold start: what a fresh environment imports, with what is deployed and nothing else beside it."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from local.package import CODE
from tests.deploy.stack import ROOT
from tests.factories import make_model

POSTGRES = {"DATABASE_URL": "postgres://user@127.0.0.1:1/federation"}
SQLITE = {"DATABASE_URL": "sqlite:////nonexistent/federation.sqlite3"}
S3 = {
    "BUCKET": "federation",
    "QUEUE_URL": "http://127.0.0.1:1/queue",
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
DIRECTORY = {"STORAGE_ROOT": "/nonexistent"}
POWERTOOLS = {"POWERTOOLS_SERVICE_NAME": "tests", "POWERTOOLS_METRICS_NAMESPACE": "tests"}
TRACED = {"AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000", "POWERTOOLS_TRACE_DISABLED": "false"}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code and the packages of requirements.txt, as in the zip."""
    folder = tmp_path_factory.mktemp("deployed")
    for name in CODE:
        (folder / name).symlink_to(ROOT / name)
    for name in re.findall(
        r"^([\w.-]+)==(?!.*win32)", (ROOT / "requirements.txt").read_text(), re.M
    ):
        for file in distribution(name).files or ():
            link = folder / file.parts[0]
            if file.parts[0] != ".." and not link.exists():
                link.symlink_to(str(distribution(name).locate_file(file.parts[0])))
    return folder


def imported(deployed: Path, environment: dict[str, str], statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-S", "-c", script],  # -S: not what this machine has installed.
        cwd=deployed,
        env=environment | {"PYTHONPATH": str(deployed)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))  # It logs before.


#: An event for the model that is named, and a context.
FIRST_EVENT = """
import lambda_handler
class Context:
    function_name = memory_limit_in_mb = invoked_function_arn = aws_request_id = "any"
    def get_remaining_time_in_millis(self):
        return 300_000
event = {{"detail-type": "Scheduled Event", "detail": {{"model_id": {model_id}}}}}
assert lambda_handler.handler(event, Context())["status"] == "waiting"
"""


def below(modules: set[str], *packages: str) -> set[str]:
    """Those of the modules that are these packages, or in them."""
    return {each for each in modules if any(f"{each}.".startswith(f"{p}.") for p in packages)}


@pytest.fixture(scope="module")
def on_aws(deployed: Path) -> set[str]:
    """What the function imports as it is deployed."""
    return imported(deployed, POSTGRES | S3 | POWERTOOLS, "import lambda_handler")


#: None of it has a part in a round, nor in any other event.
UNUSED = (
    "aggregation.api",
    "aggregation.in_memory",
    "aws_lambda_powertools.utilities.batch",
    "aws_lambda_powertools.utilities.data_classes",
    "aws_lambda_powertools.utilities.parser",
    "aws_xray_sdk",
    "connectors.usecases.verify",
    "costs",
    "connectors.usecases.health",
    "connectors.management",
    "connectors.usecases.publish",
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles.finders",
    "django.core.handlers",
    "django.db.backends.sqlite3",
    "django.test",
    "fastjsonschema",
    "models_app.admin",
    "models_app.console",
    "models_app.control_room",
    "models_app.plots",
    "models_app.urls",
    "numpy.f2py",
    "numpy.random",
    "numpy.testing",
    "sqlite3",
    "unfold",
    "unittest",
)


def test_what_no_event_uses_is_not_imported(on_aws: set[str]) -> None:
    """The admin and the commands, the other database, X-Ray and the larger parts of the libraries are left
    alone."""
    assert below(on_aws, *UNUSED) == set()


def test_of_the_storages_and_of_urllib3_only_what_s3_needs_is_imported(on_aws: set[str]) -> None:
    """Neither another backend of django-storages, nor anything that urllib3 can do beside HTTP."""
    assert below(on_aws, "storages.backends") == {"storages.backends", "storages.backends.s3"}
    assert below(on_aws, "urllib3.contrib") == {"urllib3.contrib"}


def test_of_djangos_applications_only_the_users_are_there(on_aws: set[str]) -> None:
    """A model has a developer, who is a user, which has a content type; and django-storages imports
    the class of a storage for static files."""
    contrib = below(on_aws, "django.contrib") - {"django.contrib"}
    assert {each.split(".")[2] for each in contrib} == {"auth", "contenttypes", "staticfiles"}
    assert "django.contrib.staticfiles.apps" not in contrib


def test_forms_templates_and_views_are_only_what_django_itself_imports(
    deployed: Path, on_aws: set[str]
) -> None:
    """Django's own models of users import forms, which import templates; the function adds none."""
    of_django = imported(
        deployed,
        {},
        "import django; from django.conf import settings\n"
        "apps = ['django.contrib.contenttypes', 'django.contrib.auth']\n"
        "settings.configure(INSTALLED_APPS=apps, USE_I18N=False, LOGGING_CONFIG=None)\n"
        "django.setup()",
    )
    shown = "django.forms", "django.template", "django.views", "django.middleware"
    assert below(on_aws, *shown) == below(of_django, *shown)


def test_where_there_is_no_aws_its_libraries_are_not_imported(deployed: Path) -> None:
    """On SQLite and a directory there is no driver of PostgreSQL, and of AWS's SDK only the errors."""
    modules = imported(deployed, SQLITE | DIRECTORY | POWERTOOLS, "import lambda_handler")
    assert below(modules, "psycopg", "boto3", "s3transfer", "urllib3", "storages") == set()
    assert below(modules, "botocore") == {
        "botocore",
        "botocore.exceptions",
        "botocore.vendored",
        "botocore.vendored.requests",
        "botocore.vendored.requests.exceptions",
        "botocore.vendored.requests.packages",
        "botocore.vendored.requests.packages.urllib3",
        "botocore.vendored.requests.packages.urllib3.exceptions",
    }


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_the_first_event_finds_everything_imported(
    deployed: Path, on_aws: set[str], database: str
) -> None:
    """What a request for a round uses is there when the environment has started."""
    environment = {"DATABASE_URL": database} | S3 | POWERTOOLS
    event = FIRST_EVENT.format(model_id=make_model(1).pk)
    assert imported(deployed, environment, event) - on_aws == set()


def test_x_ray_is_imported_where_it_traces(deployed: Path) -> None:
    """With tracing on, its SDK is there."""
    environment = POSTGRES | S3 | POWERTOOLS | TRACED
    assert "aws_xray_sdk" in imported(deployed, environment, "import lambda_handler")


def test_garbage_is_collected_after_the_start() -> None:
    """The collector rests only while the modules are imported."""
    import lambda_handler  # noqa: F401

    assert gc.isenabled()

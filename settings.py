"""Django settings, read from the environment; every value that is missing or wrong is refused by name.

What stands after ``#:`` is what docs/reference/settings.md says of a variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from connectors.environment import Environment, Range, Regexp

BASE_DIR = Path(__file__).resolve().parent

#: What of the function's memory the chunk engine may use; the rest is Python, Django and boto3.
ENGINE_SHARE = 0.4

env = Environment()

#: Django's debug mode, for development: errors are shown in the browser.
DEBUG = env.bool("DEBUG", False)
#: Whether Django's admin is there, for `manage.py runserver`. It needs `SECRET_KEY`.
ADMIN = env.bool("ADMIN", False)
#: What the admin signs its sessions with: a long random text.
SECRET_KEY = env.str("SECRET_KEY", "")
#: Names under which the admin may be reached, with commas between.
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])

#: `postgres://user:password@host:5432/name` or `sqlite:////path`.
DATABASE = env.dj_db_url("DATABASE_URL")
#: A fresh IAM token for each connection instead of a password; PostgreSQL only.
DATABASE_IAM_AUTH = env.bool("DATABASE_IAM_AUTH", False)
#: What the database's certificate is verified against, with `DATABASE_IAM_AUTH`. By default
#: `rds-global-bundle.pem` beside the code.
DATABASE_CA_BUNDLE = env.str("DATABASE_CA_BUNDLE", str(BASE_DIR / "rds-global-bundle.pem"))
#: The S3 bucket of updates and aggregates. Either this or `STORAGE_ROOT` is required.
BUCKET = env.str("BUCKET", "")
#: A directory instead of a bucket. Nothing announces what is put there, so that clients need a bucket.
STORAGE_ROOT = env.str("STORAGE_ROOT", "")
#: The function's own queue, by which it asks for rounds that are due or go on.
QUEUE_URL = env.str("QUEUE_URL", "", validate=Regexp(r"(https?://[!-~]+)?\Z"))
#: Name or ARN of the EventBridge bus on which rounds, rejections and pauses are announced.
EVENT_BUS = env.str("EVENT_BUS", "")

#: ARN of the state machine that spreads large rounds over several functions; without it, each round is
#: done by one function.
STATE_MACHINE_ARN = env.str("STATE_MACHINE_ARN", "")
#: Functions that may share a round, unless its model says otherwise.
MAX_FUNCTIONS = env.int("MAX_FUNCTIONS", 1, validate=Range(min=1, max=1000))
#: Rate at which one function is assumed to read from S3: it decides how many share a round.
FUNCTION_BYTES_PER_SECOND = env.int("FUNCTION_BYTES_PER_SECOND", 70_000_000, validate=Range(min=1))

FUNCTION_MEMORY_MB = env.int("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0)
#: What the chunk engine may use. By default 40 % of the function's memory, and 256 where there is
#: no function.
MEMORY_BUDGET_MB = env.int(
    "MEMORY_BUDGET_MB",
    max(32, int(FUNCTION_MEMORY_MB * ENGINE_SHARE)) if FUNCTION_MEMORY_MB else 256,
    validate=Range(min=16),
)
#: Size of the function's `/tmp`. Nine tenths of it are there for updates that must be unpacked; those
#: of a round that do not fit are rejected.
EPHEMERAL_STORAGE_MB = env.int("EPHEMERAL_STORAGE_MB", 512, validate=Range(min=1))
#: Ranges that are read from S3 at the same time.
READ_THREADS = env.int("READ_THREADS", 16, validate=Range(min=1, max=256))
#: Whether `status/<model>/<client>.json` says what became of a client's updates. This costs about two
#: requests to S3 for each update.
CLIENT_STATUS = env.bool("CLIENT_STATUS", True)
#: A larger update is rejected.
MAX_UPDATE_BYTES = env.int("MAX_UPDATE_BYTES", 10 << 30, validate=Range(min=1))
#: An update or score that claims more examples is rejected.
MAX_NUM_EXAMPLES = env.int("MAX_NUM_EXAMPLES", 10**9, validate=Range(min=1))
#: Failed rounds in a row that pause a model.
MAX_FAILED_ROUNDS = env.int("MAX_FAILED_ROUNDS", 3, validate=Range(min=1))
#: How long a round belongs to a process that is not a Lambda function; in a function, as long as the
#: invocation may last.
LEASE_SECONDS = env.int("LEASE_SECONDS", 900, validate=Range(min=1, max=86_400))

SPOOL_BYTES = (EPHEMERAL_STORAGE_MB << 20) // 10 * 9

if not {":", "/"}.isdisjoint(BUCKET):
    env.refuse(
        "BUCKET", "is a URL, an ARN or a path: write the bucket's name alone, such as federation"
    )
if bool(BUCKET) == bool(STORAGE_ROOT):
    env.refuse(
        "exactly one of BUCKET (an S3 bucket) and STORAGE_ROOT (a directory)",
        f"must be set, and {'both are' if BUCKET else 'neither is'}",
    )
env.seal()
if not DATABASE["ENGINE"].endswith((".sqlite3", ".postgresql")):
    raise ImproperlyConfigured("DATABASE_URL must begin with sqlite:/// or postgres://")
if DATABASE_IAM_AUTH and not DATABASE["ENGINE"].endswith(".postgresql"):
    raise ImproperlyConfigured("DATABASE_IAM_AUTH needs a DATABASE_URL of PostgreSQL")
if DATABASE_IAM_AUTH and not Path(DATABASE_CA_BUNDLE).is_file():
    raise ImproperlyConfigured(f"DATABASE_CA_BUNDLE: there is no file {DATABASE_CA_BUNDLE!r}")
if ADMIN and not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY must be set where ADMIN is true: the admin signs sessions"
    )


def database(config: dict[str, Any]) -> dict[str, Any]:
    """Django's database settings, with what concurrency asks for on either engine."""
    if config["ENGINE"].endswith("sqlite3"):
        # A write lock from the start of a transaction: the claim reads first and writes then.
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
    else:
        # An environment may sleep for minutes between invocations: connections are kept, and tried
        # before they are used again.
        config |= {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
        # Aurora that has scaled to zero takes a while to wake.
        patience = 60 if DATABASE_IAM_AUTH else 10
        config["OPTIONS"] = {"connect_timeout": patience} | config.get("OPTIONS", {})
    if DATABASE_IAM_AUTH:
        config["ENGINE"] = "models_app.iam_postgresql"
    return config


DATABASES = {"default": database(dict(DATABASE))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if BUCKET:
    from botocore.config import Config

    STORAGE = {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": BUCKET,
            "file_overwrite": False,
            "querystring_auth": True,
            # One connection for each thread that reads, one for the thread that stores parts and one
            # for the main thread. With fewer, urllib3 discards connections and opens new ones.
            "client_config": Config(max_pool_connections=READ_THREADS + 2),
        },
    }
else:
    STORAGE = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": STORAGE_ROOT},
    }
STORAGES = {
    "default": STORAGE,
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

# `connectors` has no models; it is an app for its management commands.
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "models_app",
    "connectors",
]
MIDDLEWARE: list[str] = []
TEMPLATES: list[dict[str, Any]] = []
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
LOGGING_CONFIG = None  # The function's logger is Powertools'; commands print.

if ADMIN:
    INSTALLED_APPS = [
        "django.contrib.admin",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
        *INSTALLED_APPS,
    ]
    MIDDLEWARE = [
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ]
    TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ]
    ROOT_URLCONF = "models_app.urls"
    STATIC_URL = "static/"

"""Django settings, read from the environment; every value that is missing or wrong is refused by name.

The table of variables is in README.md, section "Settings".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import environs
from django.core.exceptions import ImproperlyConfigured
from environs import validate

BASE_DIR = Path(__file__).resolve().parent

#: What of the function's memory the chunk engine may use; the rest is Python, Django and boto3.
ENGINE_SHARE = 0.4

env = environs.Env(eager=False)

DEBUG = env.bool("DEBUG", False)
ADMIN = env.bool("ADMIN", False)
SECRET_KEY = env.str("SECRET_KEY", "")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])

DATABASE = env.dj_db_url("DATABASE_URL")
DATABASE_IAM_AUTH = env.bool("DATABASE_IAM_AUTH", False)
DATABASE_CA_BUNDLE = env.str("DATABASE_CA_BUNDLE", str(BASE_DIR / "rds-global-bundle.pem"))
BUCKET = env.str("BUCKET", "")
STORAGE_ROOT = env.str("STORAGE_ROOT", "")
QUEUE_URL = env.str("QUEUE_URL", "")
EVENT_BUS = env.str("EVENT_BUS", "")

FUNCTION_MEMORY_MB = env.int("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0)
MEMORY_BUDGET_MB = env.int(
    "MEMORY_BUDGET_MB",
    max(32, int(FUNCTION_MEMORY_MB * ENGINE_SHARE)) if FUNCTION_MEMORY_MB else 256,
    validate=validate.Range(min=16),
)
READ_THREADS = env.int("READ_THREADS", 16, validate=validate.Range(min=1, max=256))
MAX_UPDATE_BYTES = env.int("MAX_UPDATE_BYTES", 10 << 30, validate=validate.Range(min=1))
MAX_NUM_EXAMPLES = env.int("MAX_NUM_EXAMPLES", 10**9, validate=validate.Range(min=1))
MAX_FAILED_ROUNDS = env.int("MAX_FAILED_ROUNDS", 3, validate=validate.Range(min=1))
LEASE_SECONDS = env.int("LEASE_SECONDS", 900, validate=validate.Range(min=1))

try:
    env.seal()
except environs.EnvValidationError as error:
    found = dict(error.error_messages)  # type: ignore[arg-type]
    problems = "; ".join(f"{name}: {' '.join(why)}" for name, why in found.items())
    raise ImproperlyConfigured(f"environment variables missing or wrong: {problems}") from error
if bool(BUCKET) == bool(STORAGE_ROOT):
    raise ImproperlyConfigured(
        "set BUCKET (an S3 bucket) or STORAGE_ROOT (a directory): exactly one of the two; "
        f"BUCKET is {BUCKET!r}, STORAGE_ROOT is {STORAGE_ROOT!r}"
    )
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
    STORAGE = {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {"bucket_name": BUCKET, "file_overwrite": False, "querystring_auth": True},
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

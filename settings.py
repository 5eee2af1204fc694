"""Django settings, read from the environment; a value that is missing or wrong is refused by name.

Comments that begin with ``#:`` are the descriptions in docs/reference/settings.md.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from connectors import limits
from connectors.environment import Environment

BASE_DIR = Path(__file__).resolve().parent

#: What of the function's memory the chunk engine may use. Python, Django and boto3 take 100 MB, and copies
#: of what is read and stored 70 MB (`make bench-tls`): together about 430 of 512 MB.
ENGINE_SHARE = 0.5

env = Environment()

#: Django's debug mode, for development: errors are shown in the browser.
DEBUG = env.flag("DEBUG", False)
#: Whether the console, Django's admin with a theme, is served. It needs `SECRET_KEY`, the package
#: django-unfold, and HTTPS unless `DEBUG` is true.
ADMIN = env.flag("ADMIN", False)
#: What the console signs its sessions with: at least 50 random characters.
SECRET_KEY = env.text("SECRET_KEY", "")
#: Names under which the console may be reached, with commas between.
ALLOWED_HOSTS = env.names("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])

#: `postgres://user:password@host:5432/name` or `sqlite:////path`.
DATABASE = env.database_url("DATABASE_URL")
#: A fresh IAM token for each connection instead of a password; PostgreSQL only.
DATABASE_IAM_AUTH = env.flag("DATABASE_IAM_AUTH", False)
#: What the database's certificate is verified against, with `DATABASE_IAM_AUTH`. By default
#: `rds-global-bundle.pem` beside the code.
DATABASE_CA_BUNDLE = env.text("DATABASE_CA_BUNDLE", str(BASE_DIR / "rds-global-bundle.pem"))
#: The S3 bucket of updates and aggregates. Either this or `STORAGE_ROOT` is required.
BUCKET = env.text("BUCKET", "")
#: A directory instead of a bucket. Nothing announces what is put there, so that clients need a bucket.
STORAGE_ROOT = env.text("STORAGE_ROOT", "")
#: The function's own queue, by which it asks for rounds that are due or go on.
QUEUE_URL = env.text("QUEUE_URL", "")
#: Name or ARN of the EventBridge bus on which rounds, rejections and pauses are announced.
EVENT_BUS = env.text("EVENT_BUS", "")

#: What the seeds of private models are encrypted with: the ARN of a KMS key, or the path of a file of 32
#: random bytes. Without it, no model can have differential privacy.
PRIVACY_KEY = env.text("PRIVACY_KEY", "")
#: ARN of the state machine that spreads large rounds over several functions; without it, each round is
#: done by one function.
STATE_MACHINE_ARN = env.text("STATE_MACHINE_ARN", "")
#: Functions that may share a round, unless its model says otherwise.
MAX_FUNCTIONS = env.integer("MAX_FUNCTIONS", 1, min=1, max=1000)
#: Rate at which one function is assumed to read from S3: it decides how many share a round.
FUNCTION_BYTES_PER_SECOND = env.integer("FUNCTION_BYTES_PER_SECOND", 70_000_000, min=1)

FUNCTION_MEMORY_MB = env.integer("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0)
#: What the chunk engine may use. By default half of the function's memory, and 256 where there is
#: no function.
MEMORY_BUDGET_MB = env.integer(
    "MEMORY_BUDGET_MB",
    max(32, int(FUNCTION_MEMORY_MB * ENGINE_SHARE)) if FUNCTION_MEMORY_MB else 256,
    min=16,
)
#: Size of the function's `/tmp`. Nine tenths of it are there for updates that must be unpacked; those
#: of a round that do not fit are rejected. The parts of a model of more than 117 GiB are written to it
#: before they are uploaded.
EPHEMERAL_STORAGE_MB = env.integer("EPHEMERAL_STORAGE_MB", 512, min=1)
#: Ranges that are read from S3 at the same time.
READ_THREADS = env.integer("READ_THREADS", 16, min=1, max=256)
#: Whether `status/<model>/<client>.json` says what became of a client's updates. This costs about two
#: requests to S3 for each update.
CLIENT_STATUS = env.flag("CLIENT_STATUS", True)
#: A larger update is rejected.
MAX_UPDATE_BYTES = env.integer("MAX_UPDATE_BYTES", 10 << 30, min=1)
#: Whether clients use the API: `aggregates/<model>/progress.json` then says how many updates are ready.
#: This costs two requests to S3 for each update.
CLIENT_API = env.flag("CLIENT_API", False)
#: Uploads that a client of the API may have begun and not completed.
API_OPEN_UPLOADS = env.integer("API_OPEN_UPLOADS", 4, min=1)
#: Bytes of updates that a client of the API may send within a day.
API_BYTES_PER_DAY = env.integer("API_BYTES_PER_DAY", 50 << 30, min=1)
#: An update or score that claims more examples is rejected.
MAX_NUM_EXAMPLES = env.integer("MAX_NUM_EXAMPLES", 10**9, min=1)
#: Failed rounds in a row that pause a model.
MAX_FAILED_ROUNDS = env.integer("MAX_FAILED_ROUNDS", 3, min=1)
#: How long a round belongs to a process that is not a Lambda function; in a function, as long as the
#: invocation may last.
LEASE_SECONDS = env.integer("LEASE_SECONDS", 900, min=1, max=86_400)
#: Times that a request to AWS is sent in all; every AWS SDK reads this variable.
AWS_MAX_ATTEMPTS = env.integer("AWS_MAX_ATTEMPTS", limits.AWS_ATTEMPTS, min=1)

SPOOL_BYTES = (EPHEMERAL_STORAGE_MB << 20) // 10 * 9

if not re.fullmatch(r"(https?://[!-~]+)?", QUEUE_URL):
    env.refuse("QUEUE_URL", "is not a URL that begins with https:// or http://")
if not {":", "/"}.isdisjoint(BUCKET):
    env.refuse(
        "BUCKET", "is a URL, an ARN or a path: write the bucket's name alone, such as federation"
    )
if bool(BUCKET) == bool(STORAGE_ROOT):
    env.refuse(
        "exactly one of BUCKET (an S3 bucket) and STORAGE_ROOT (a directory)",
        f"must be set, and {'both are' if BUCKET else 'neither is'}",
    )
if PRIVACY_KEY.startswith("arn:") and STORAGE_ROOT:
    env.refuse("PRIVACY_KEY", "is a KMS key, which needs a BUCKET: give the path of a file instead")
if ADMIN and not SECRET_KEY:
    env.refuse("SECRET_KEY", "must be set if ADMIN is true: the console signs sessions with it")
# As Django's own check security.W009.
if SECRET_KEY and (len(SECRET_KEY) < 50 or len(set(SECRET_KEY)) < 5):
    env.refuse("SECRET_KEY", "must have at least 50 characters, 5 of them different")
if ADMIN and find_spec("unfold") is None:
    env.refuse("ADMIN", "is true, but the console's theme is missing: pip install django-unfold")
env.seal()
if not DATABASE["ENGINE"].endswith((".sqlite3", ".postgresql")):
    raise ImproperlyConfigured("DATABASE_URL must begin with sqlite:/// or postgres://")
if DATABASE_IAM_AUTH and not DATABASE["ENGINE"].endswith(".postgresql"):
    raise ImproperlyConfigured("DATABASE_IAM_AUTH needs a DATABASE_URL of PostgreSQL")
if DATABASE_IAM_AUTH and not Path(DATABASE_CA_BUNDLE).is_file():
    raise ImproperlyConfigured(f"DATABASE_CA_BUNDLE: there is no file {DATABASE_CA_BUNDLE!r}")


def database(config: dict[str, Any]) -> dict[str, Any]:
    """Return Django's database settings, with the waits of `connectors.limits`."""
    if config["ENGINE"].endswith("sqlite3"):
        # A transaction takes the write lock at its start: a claim reads first and then writes.
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": limits.SQLITE_BUSY_SECONDS,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
    else:
        # An environment may be frozen for minutes between invocations: connections are kept, and
        # checked before they are used again.
        config |= {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
        connect = (
            limits.DATABASE_RESUME_SECONDS if DATABASE_IAM_AUTH else limits.DATABASE_CONNECT_SECONDS
        )
        config["OPTIONS"] = {
            "connect_timeout": connect,
            "tcp_user_timeout": limits.DATABASE_UNACKNOWLEDGED_SECONDS * 1000,
            "keepalives_idle": limits.DATABASE_KEEPALIVES_IDLE_SECONDS,
            "keepalives_interval": limits.DATABASE_KEEPALIVES_INTERVAL_SECONDS,
            "keepalives_count": limits.DATABASE_KEEPALIVES_COUNT,
            **config.get("OPTIONS", {}),
        }
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
            # With fewer connections than threads, urllib3 discards connections and opens new ones.
            "client_config": Config(
                max_pool_connections=READ_THREADS + limits.SPARE_CONNECTIONS,
                connect_timeout=limits.AWS_CONNECT_SECONDS,
                read_timeout=limits.S3_READ_SECONDS,
                retries={"total_max_attempts": AWS_MAX_ATTEMPTS},
            ),
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
    from models_app.console.theme import UNFOLD  # noqa: F401  # The theme reads it here.

    # Templates and static files of an app before the theme replace those of the theme.
    INSTALLED_APPS = [
        "models_app",
        "unfold.apps.BasicAppConfig",
        "models_app.console.apps.ConsoleConfig",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
        *(app for app in INSTALLED_APPS if app != "models_app"),
    ]
    MIDDLEWARE = [
        "django.middleware.security.SecurityMiddleware",
        "models_app.console.middleware.ContentSecurityPolicy",
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
    if not DEBUG:
        # Sessions travel over HTTPS only, and browsers remember that for a year.
        SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
        SECURE_HSTS_SECONDS = 365 * 24 * 3600

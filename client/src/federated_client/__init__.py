"""The client of a federation: fetch the latest weights, upload an update, wait for the next aggregate.

    from federated_client import Bucket, Client

    me = Client(Bucket("federation"), model_id=3, client_id="11111111-1111-4111-8111-000000000001")
    weights = me.fetch()
    me.upload(train(weights), num_examples=120)
    me.wait()
    me.fetch()
    me.report_score(num_examples=30, accuracy=0.93)

It needs numpy and ml_dtypes, and boto3 for `Bucket`; `Posts` needs neither credentials nor boto3.
"""

from .api import Api
from .client import Client
from .errors import (
    AccessDenied,
    BadArgument,
    BadDownload,
    BadScore,
    BadWeights,
    ClientError,
    CredentialsInvalid,
    DownloadRefused,
    Misconfigured,
    NoBucket,
    NotThere,
    RoundOverdue,
    StorageUnreachable,
    UpdateRejected,
    UploadRefused,
)
from .federation import Federation, Round
from .https import Posts
from .pointer import Latest
from .readiness import ModelProgress
from .s3 import Bucket
from .status import Status, UpdateStatus

__all__ = [
    "AccessDenied",
    "Api",
    "BadArgument",
    "BadDownload",
    "BadScore",
    "BadWeights",
    "Bucket",
    "Client",
    "ClientError",
    "CredentialsInvalid",
    "DownloadRefused",
    "Federation",
    "Latest",
    "Misconfigured",
    "ModelProgress",
    "NoBucket",
    "NotThere",
    "Posts",
    "Round",
    "RoundOverdue",
    "Status",
    "StorageUnreachable",
    "UpdateRejected",
    "UpdateStatus",
    "UploadRefused",
]

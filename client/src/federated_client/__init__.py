"""What a client of a federation needs: the latest weights, a place for its update, and the round's end.

    from federated_client import Bucket, Client

    me = Client(Bucket("federation"), model_id=3, client_id="11111111-1111-4111-8111-000000000001")
    weights = me.fetch()
    me.upload(train(weights), num_examples=120)
    me.wait()
    me.fetch()
    me.report_score(num_examples=30, accuracy=0.93)

It needs numpy, and boto3 for `Bucket`; `Posts` needs neither credentials nor boto3. Where the `safetensors`
package is installed updates are safetensors files, else npz.
"""

from .errors import (
    AccessDenied,
    BadScore,
    BadWeights,
    ClientError,
    NoBucket,
    NotThere,
    RoundOverdue,
    StorageUnreachable,
    UploadRefused,
)
from .federation import Client, Latest
from .https import Posts
from .s3 import Bucket

__all__ = [
    "AccessDenied",
    "BadScore",
    "BadWeights",
    "Bucket",
    "Client",
    "ClientError",
    "Latest",
    "NoBucket",
    "NotThere",
    "Posts",
    "RoundOverdue",
    "StorageUnreachable",
    "UploadRefused",
]

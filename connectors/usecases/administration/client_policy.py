"""The IAM policy of one client that uses the bucket with credentials of its own."""

from __future__ import annotations

from typing import Any

from aggregation.errors import Conflict
from connectors.storage.keys import AGGREGATES, ARTIFACTS, SCORES, UPDATES, status_key
from models_app.models import Client, FederatedModel


def client_policy(
    model: FederatedModel, client: Client, bucket: str, partition: str
) -> dict[str, Any]:
    """Return the policy that allows a client of a model all that it needs, and nothing else.

    Parameters
    ----------
    model : FederatedModel
    client : Client
    bucket : str
        Its name.
    partition : str
        Of AWS, such as ``aws`` or ``aws-cn``.

    Raises
    ------
    Conflict
        If the client is not a member of the model.
    """
    if not model.clients.filter(pk=client.pk).exists():
        raise Conflict(f"client {client} is not a member of model {model.pk}")
    place = f"arn:{partition}:s3:::{bucket}/"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "s3:PutObject",
                "Resource": [
                    f"{place}{folder}{model.pk}/{client.pk}/*" for folder in (UPDATES, SCORES)
                ],
            },
            {
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": [
                    *(f"{place}{folder}{model.pk}/*" for folder in (AGGREGATES, ARTIFACTS)),
                    f"{place}{status_key(model.pk, client.pk)}",
                ],
            },
        ],
    }

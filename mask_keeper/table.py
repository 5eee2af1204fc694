"""The mask keeper's table: public keys, what was spent, and the requests, by conditional writes.

Each item has an ``id``:

- ``client/<uuid>``: the public key of a registered client;
- ``spent/<commitment>`` and ``round/<model>/<id>``: the request that a commitment or a round was spent for;
- ``request/<digest>``: the state of a request.

A request is first reserving, and then either reserved or refused; both are final. What was spent for a
refused request may be spent again, since that request is never answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aggregation.errors import TemporarilyUnavailable

#: DynamoDB's limits for one transaction and for one batch of reads.
AT_ONCE = 100

#: How often a write is repeated that others are in the way of.
TRIES = 10

RESERVING, RESERVED, REFUSED = "reserving", "reserved", "refused"

Item = dict[str, Any]


class KeeperTable:
    """The table.

    Parameters
    ----------
    client
        A boto3 client of DynamoDB.
    name : str
    """

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    # Clients

    def register(self, client: str, public_key: bytes) -> None:
        """Register the public key of a client, in place of an earlier one."""
        key = {"S": public_key.hex()}
        self._client.put_item(
            TableName=self._name, Item={"id": {"S": f"client/{client}"}, "public_key": key}
        )

    def revoke(self, client: str) -> bool:
        """Remove the public key of a client; return whether there was one."""
        answer = self._client.delete_item(
            TableName=self._name, Key={"id": {"S": f"client/{client}"}}, ReturnValues="ALL_OLD"
        )
        return "Attributes" in answer

    def clients(self) -> Iterator[tuple[str, str]]:
        """Yield the ids and public keys of the registered clients."""
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._name,
            FilterExpression="begins_with(id, :prefix)",
            ExpressionAttributeValues={":prefix": {"S": "client/"}},
        )
        for page in pages:
            for item in page["Items"]:
                yield item["id"]["S"].removeprefix("client/"), item["public_key"]["S"]

    def public_keys(self, clients: Iterable[str]) -> dict[str, bytes]:
        """Return the public keys of those clients that are registered."""
        found = self._read_all([f"client/{client}" for client in dict.fromkeys(clients)])
        return {
            key.removeprefix("client/"): bytes.fromhex(item["public_key"]["S"])
            for key, item in found.items()
        }

    def _read_all(self, ids: Sequence[str]) -> dict[str, Item]:
        found: dict[str, Item] = {}
        for batch in _batches(ids):
            keys = [{"id": {"S": each}} for each in batch]
            for _ in range(TRIES):
                answer = self._client.batch_get_item(
                    RequestItems={self._name: {"Keys": keys, "ConsistentRead": True}}
                )
                found |= {item["id"]["S"]: item for item in answer["Responses"][self._name]}
                keys = answer["UnprocessedKeys"].get(self._name, {}).get("Keys", [])
                if not keys:
                    break
            else:
                raise TemporarilyUnavailable("DynamoDB left reads unprocessed")
        return found

    # Requests

    def state_of(self, digest: str) -> tuple[str, str]:
        """Return the state of a request, and its refusal as JSON; empty if it is unknown."""
        item = self._read(f"request/{digest}")
        return _text(item, "state"), _text(item, "answer")

    def begin(self, digest: str, expires: int) -> None:
        """Record a request that is about to spend, unless it is recorded already."""
        item = {
            "id": {"S": f"request/{digest}"},
            "state": {"S": RESERVING},
            "expires_on": {"N": str(expires)},
        }
        self._put_if(item, "attribute_not_exists(id)")

    def end(self, digest: str, state: str, expires: int, answer: str = "") -> bool:
        """Make a state final, unless another state is; return whether it is the request's."""
        item = {
            "id": {"S": f"request/{digest}"},
            "state": {"S": state},
            "answer": {"S": answer},
            "expires_on": {"N": str(expires)},
        }
        self._put_if(
            item, "attribute_not_exists(id) OR #state = :reserving", {":reserving": RESERVING}
        )
        return self.state_of(digest)[0] == state

    def upload_of(self, digest: str) -> str:
        """Return the id of the upload of a request's sum; empty if none has begun."""
        return _text(self._read(f"request/{digest}"), "upload")

    def begin_upload(self, digest: str, upload: str) -> str:
        """Record the upload of a sum, unless another one is recorded; return the one that counts."""
        try:
            self._client.update_item(
                TableName=self._name,
                Key={"id": {"S": f"request/{digest}"}},
                UpdateExpression="SET upload = :upload",
                ConditionExpression="attribute_not_exists(upload)",
                ExpressionAttributeValues={":upload": {"S": upload}},
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return self.upload_of(digest)
        return upload

    # Spending

    def spend(self, ids: Sequence[str], digest: str, expires: int) -> set[str]:
        """Spend commitments or rounds for a request; return those that others were spent for.

        Those that are not returned are spent for this request, now or by an earlier call.
        """
        spent: set[str] = set()
        for batch in _batches(ids):
            spent |= self._spend_batch(batch, digest, expires)
        return spent

    def _spend_batch(self, batch: Sequence[str], digest: str, expires: int) -> set[str]:
        spent: set[str] = set()
        refused: dict[str, str] = {}  # What was spent for a refused request, and which one.
        for _ in range(TRIES):
            pending = [each for each in batch if each not in spent]
            failed = self._put_all(pending, digest, expires, refused) if pending else []
            if not failed:
                return spent
            for each in failed:
                holder = _text(self._read(each), "request")
                if holder and self.state_of(holder)[0] != REFUSED:
                    spent.add(each)
                else:
                    refused[each] = holder
        raise TemporarilyUnavailable("other requests spend the same commitments at this moment")

    def _put_all(
        self, ids: Sequence[str], digest: str, expires: int, refused: Mapping[str, str]
    ) -> list[str]:
        """Write all or none; return those whose conditions failed."""
        puts = [
            {
                "Put": {
                    "TableName": self._name,
                    "Item": {
                        "id": {"S": each},
                        "request": {"S": digest},
                        "expires_on": {"N": str(expires)},
                    },
                    "ConditionExpression": "attribute_not_exists(id) OR #request IN (:own, :refused)",
                    "ExpressionAttributeNames": {"#request": "request"},
                    "ExpressionAttributeValues": {
                        ":own": {"S": digest},
                        ":refused": {"S": refused.get(each) or digest},
                    },
                }
            }
            for each in ids
        ]
        try:
            self._client.transact_write_items(TransactItems=puts)
        except self._client.exceptions.TransactionCanceledException as error:
            codes = [reason.get("Code") for reason in error.response["CancellationReasons"]]
            if not {"None", "ConditionalCheckFailed"}.issuperset(codes):
                raise TemporarilyUnavailable(f"DynamoDB refused a transaction: {codes}") from error
            pairs = zip(ids, codes, strict=True)
            return [each for each, code in pairs if code == "ConditionalCheckFailed"]
        return []

    def _read(self, key: str) -> Item:
        answer = self._client.get_item(
            TableName=self._name, Key={"id": {"S": key}}, ConsistentRead=True
        )
        item: Item = answer.get("Item", {})
        return item

    def _put_if(self, item: Item, condition: str, values: Mapping[str, str] | None = None) -> None:
        """Write an item if a condition holds; do nothing if it does not."""
        arguments: dict[str, Any] = {}
        if values:
            arguments = {
                "ExpressionAttributeNames": {"#state": "state"},
                "ExpressionAttributeValues": {k: {"S": v} for k, v in values.items()},
            }
        try:
            self._client.put_item(
                TableName=self._name, Item=item, ConditionExpression=condition, **arguments
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return


def _text(item: Item, name: str) -> str:
    value: str = item.get(name, {}).get("S", "")
    return value


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]

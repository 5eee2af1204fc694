"""Answer requests for sums of masks: check, spend, sum, answer.

Nothing is revealed before all commitments of a request are spent for it. A request is answered once: an
identical one has the identical answer, and another one with any of its commitments is refused.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from aggregation.masks.requests import (
    MAX_REQUEST_BYTES,
    BadRequest,
    MaskAnswer,
    MaskKeys,
    MaskRequest,
)
from mask_keeper.checks import Cohort, Terms, check_request, clients_of, reserved_cohort
from mask_keeper.sums import SumStore
from mask_keeper.table import REFUSED, RESERVED, KeeperTable

logger = logging.getLogger(__name__)

#: The records of a request are kept for a day longer than its updates are valid.
KEPT_SECONDS = 24 * 3600


class MaskKeeper:
    """Answers requests.

    Parameters
    ----------
    table : KeeperTable
    s3
        A boto3 client of S3.
    bucket : str
        The aggregator's.
    out_of_time : callable
        As for `SumStore`.
    """

    def __init__(
        self, table: KeeperTable, s3: Any, bucket: str, out_of_time: Callable[[], bool]
    ) -> None:
        self._table = table
        self._s3 = s3
        self._bucket = bucket
        self._sums = SumStore(s3, bucket, out_of_time)

    def answer(self, key: str, terms: Terms) -> tuple[int, MaskAnswer]:
        """Answer the request that is stored under a key; return the model's id and the answer.

        Raises
        ------
        BadRequest
            If there is no well-formed request.
        OutOfTime
            If the sum is not complete; a repeated call continues it.
        """
        keys = MaskKeys.of(key)
        request = self._read(keys)
        answer = self._answer(request, keys, terms)
        self._s3.put_object(
            Bucket=self._bucket,
            Key=keys.answer,
            Body=answer.encode(),
            ContentType="application/json",
        )
        return request.model, answer

    def _read(self, keys: MaskKeys) -> MaskRequest:
        try:
            found = self._s3.get_object(Bucket=self._bucket, Key=keys.request)
        except self._s3.exceptions.NoSuchKey as error:
            raise BadRequest(f"there is no request {keys.request}") from error
        if found["ContentLength"] > MAX_REQUEST_BYTES:
            raise BadRequest(f"a request of {found['ContentLength']} bytes is refused")
        body = found["Body"].read()
        if hashlib.sha256(body).hexdigest() != keys.digest:
            raise BadRequest(f"{keys.request} is not what its key says")
        return MaskRequest.decode(body)

    def _answer(self, request: MaskRequest, keys: MaskKeys, terms: Terms) -> MaskAnswer:
        state, refusal = self._table.state_of(keys.digest)
        if state == REFUSED:
            return MaskAnswer.decode(refusal.encode())
        if state == RESERVED:  # It is answered although its updates may have expired meanwhile.
            cohort: Cohort | MaskAnswer = reserved_cohort(request, terms)
        else:
            cohort = self._reserve(request, keys.digest, terms)
        if isinstance(cohort, MaskAnswer):
            return cohort
        self._sums.store(
            keys.sum,
            cohort.seeds,
            cohort.elements,
            lambda upload: self._table.begin_upload(keys.digest, upload),
            self._table.upload_of(keys.digest),
        )
        return MaskAnswer(elements=cohort.elements)

    def _reserve(self, request: MaskRequest, digest: str, terms: Terms) -> Cohort | MaskAnswer:
        """Check a request and spend its updates for it; return its cohort, or the refusal."""
        public_keys = self._table.public_keys(clients_of(request))
        checked = check_request(request, public_keys, terms)
        if isinstance(checked, MaskAnswer):
            return self._refuse(digest, checked, int(terms.now) + KEPT_SECONDS)
        return self._spend(request, checked, digest) or checked

    def _spend(self, request: MaskRequest, cohort: Cohort, digest: str) -> MaskAnswer | None:
        """Spend the commitments and the round of a request; return the refusal if that fails."""
        expires = cohort.expires + KEPT_SECONDS
        self._table.begin(digest, expires)
        own = f"round/{request.model}/{request.round}"
        ids = [f"spent/{header.commitment}" for header in cohort.headers]
        spent = self._table.spend([own, *ids], digest, expires)
        if own in spent:
            answer = MaskAnswer(reason=f"another sum of round {request.round} was requested before")
            return self._refuse(digest, answer, expires)
        refused = {
            position: "the update was part of another sum: send a new one"
            for position, each in enumerate(ids)
            if each in spent
        }
        if refused:
            return self._refuse(digest, MaskAnswer(refused=refused), expires)
        if not self._table.end(digest, RESERVED, expires):
            return self._refusal(digest)
        return None

    def _refuse(self, digest: str, answer: MaskAnswer, expires: int) -> MaskAnswer:
        """Make a refusal final, so that what was spent for the request can be spent again."""
        if not self._table.end(digest, REFUSED, expires, answer.encode().decode()):
            # A repeated delivery has reserved the request at this moment, and answers it.
            raise RequestRaced(f"request {digest} is being answered by another invocation")
        logger.warning("request %s is refused: %s", digest, answer.encode().decode()[:1000])
        return self._refusal(digest)

    def _refusal(self, digest: str) -> MaskAnswer:
        """Return the refusal that is recorded: another delivery may have been first."""
        return MaskAnswer.decode(self._table.state_of(digest)[1].encode())


class RequestRaced(Exception):
    """Two deliveries of one request were processed at once; the next delivery finds the outcome."""

"""The errors of this package: one base class, and one class for each cause."""


class ClientError(Exception):
    """Base class of the errors that this package raises."""


class BadArgument(ClientError, ValueError):
    """An argument is not what the function takes; nothing was sent."""


class BadWeights(ClientError):
    """The aggregator would reject these weights; nothing was sent."""


class BadScore(ClientError):
    """The aggregator would reject this score; nothing was sent."""


class NoBucket(ClientError):
    """No bucket has this name."""


class NotThere(ClientError):
    """The object does not exist, or is no longer the one that was announced."""


class AccessDenied(ClientError):
    """The credentials, or the presigned post, do not allow the request."""


class CredentialsInvalid(AccessDenied):
    """The credentials are missing, wrong or expired, or this machine's clock is wrong."""


class Misconfigured(ClientError):
    """The machine's settings do not lead to storage: a URL, a Region, a profile, a certificate."""


class StorageUnreachable(ClientError):
    """Storage did not answer, or not completely, in several attempts; it may do so later.

    Attributes
    ----------
    retry_after : float
        Seconds after which the server asked for the next attempt.
    """

    retry_after = 0.0


class UploadRefused(ClientError):
    """Storage refused the upload and would refuse it again."""


class DownloadRefused(ClientError):
    """Storage refused the download and would refuse it again."""


class BadDownload(ClientError):
    """A complete download does not have the expected content."""


class RoundOverdue(ClientError):
    """No newer aggregate was published in the time that was allowed."""


class UpdateRejected(ClientError):
    """The aggregator rejected the update.

    Attributes
    ----------
    reason : str
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the update was rejected: {reason}")
        self.reason = reason

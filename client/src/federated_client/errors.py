"""What can go wrong for a client: one base class, one name and one plain sentence each."""


class ClientError(Exception):
    """Base of every error this package raises on purpose."""


class NoBucket(ClientError):
    """There is no bucket of this name."""


class NotThere(ClientError):
    """The object is not there, or no longer the one that was announced."""


class AccessDenied(ClientError):
    """The credentials, or the presigned post, do not allow this."""


class UploadRefused(ClientError):
    """Storage did not take the upload, and would not take it again."""


class StorageUnreachable(ClientError):
    """Storage did not answer, though it was asked again: later it may."""


class BadWeights(ClientError):
    """The weights would be rejected, or are no weights; nothing was sent."""


class BadScore(ClientError):
    """What was measured is no finite number, or none that JSON has; nothing was sent."""


class RoundOverdue(ClientError):
    """No newer aggregate came in the time that was allowed."""

"""The errors of the core, all derived from `AggregationError`."""


class AggregationError(Exception):
    """Base of the errors that this package raises."""


class UpdateRejected(AggregationError):
    """An update of a client cannot be used, now or later; the message is the reason given to it."""


class ObjectMissing(UpdateRejected):
    """The object does not exist: it was deleted, or is not visible yet."""


class UpdatesRejected(AggregationError):
    """Some of the updates that were read cannot be used.

    Attributes
    ----------
    reasons : dict[int, str]
        The reason for each bad update, by its position in the sequence of updates.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(f"{len(reasons)} update(s) rejected: {reasons}")
        self.reasons = reasons


class Conflict(AggregationError):
    """The request contradicts the state of the model; nothing was changed."""


class InvalidWeights(AggregationError):
    """Weights of our own are invalid: the model's initial weights, its parent, or a result."""


class RuleError(AggregationError, ValueError):
    """A rule or a requirement is unknown, or its arguments do not fit."""


class NotEnoughUpdates(AggregationError):
    """Fewer usable updates are left than the rule or the requirement needs."""


class TemporarilyUnavailable(AggregationError):
    """A service did not answer, even after retries; a later attempt may succeed."""


class ProgressLost(AggregationError):
    """The stored parts of an unfinished result are gone; the work must start again."""


class LeaseLost(Conflict):
    """The round was taken over or has ended: its former holder must change nothing."""


class OutOfTime(AggregationError):
    """The time was up before the last chunk; a later call can resume from what is stored."""


class MasksPending(AggregationError):
    """The mask keeper has not answered yet; a later attempt finds the answer."""


class MasksRefused(AggregationError):
    """The mask keeper refuses to reveal the sum of the masks, whatever the updates are."""


class PartTooLarge(AggregationError):
    """A part of the result does not fit into the disk, or into an object store."""


class SpoolFull(AggregationError):
    """An object must be unpacked to disk, and the space that is left is too small."""


def quoted(text: object) -> str:
    """Return untrusted text in a form that is safe to print: ASCII, in quotes, at most 80 characters."""
    shown = ascii(str(text)[:80])
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[0]}"

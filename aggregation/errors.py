"""What can go wrong in the core: one base class, one name and one plain sentence each."""


class AggregationError(Exception):
    """Base of every error this package raises on purpose."""


class UpdateRejected(AggregationError):
    """One update cannot be used, now or ever; the message is the reason shown to its client."""


class ObjectMissing(UpdateRejected):
    """The object is not there: deleted, or not visible yet."""


class UpdatesRejected(AggregationError):
    """Some of the updates being read turned out bad.

    Attributes
    ----------
    reasons : dict[int, str]
        Reason by position of the update in the sequence that was being read.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(f"{len(reasons)} update(s) rejected: {reasons}")
        self.reasons = reasons


class Conflict(AggregationError):
    """The request contradicts the state of the model; nothing was changed."""


class InvalidWeights(AggregationError):
    """Weights of our own are invalid: the model's initial weights, its parent, or a result."""


class RuleError(AggregationError, ValueError):
    """A rule, or a requirement, is unknown or was given arguments it does not take."""


class NotEnoughUpdates(AggregationError):
    """Fewer updates than the rule or the requirement needs are left."""


class TemporarilyUnavailable(AggregationError):
    """Storage or the database did not answer, though it was asked again: later it may."""


class ProgressLost(AggregationError):
    """What was stored of an unfinished result is gone; the work has to begin anew."""


class LeaseLost(AggregationError):
    """Another attempt has taken the round over, or ended it: this one must change nothing."""


class OutOfTime(AggregationError):
    """The deadline came before the last chunk; what is stored so far can be continued from."""


class SpoolFull(AggregationError):
    """What must be unpacked to disk does not fit there beside what is there already."""


def quoted(text: object) -> str:
    """A stranger's text, made safe to print: escaped to ASCII, in quotes, cut at 80 characters."""
    shown = ascii(str(text)[:80])
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[0]}"

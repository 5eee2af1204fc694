"""Read an update's metadata: the object metadata with the names that this project defines.

S3 stores whatever names it is given. A misspelt name would silently change the meaning of an update, for
example let 500 examples count as 1, so that names which resemble one of ours are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from django.conf import settings

from aggregation.errors import UpdateRejected, quoted
from aggregation.rules import Rule

NUM_EXAMPLES = "num-examples"
NUM_STEPS = "num-steps"
BASE_AGGREGATE = "base-aggregate"
UPDATE_KIND = "update-kind"

#: Other words for the same things, without separators; spellings close to our names need no entry.
_SYNONYMS = {
    NUM_EXAMPLES: {
        *("examples", "nexamples", "numberexamples", "numberofexamples", "examplecount"),
        *("samples", "nsamples", "numsamples", "numberofsamples", "samplecount"),
    },
    NUM_STEPS: {
        *("steps", "nsteps", "numbersteps", "numberofsteps", "stepcount", "localsteps"),
        *("iterations", "niterations", "numiterations"),
    },
    BASE_AGGREGATE: {
        *("base", "baseagg", "baseid", "baseaggregateid", "baseaggregation"),
        *("aggregate", "aggregateid"),
    },
    UPDATE_KIND: {"kind", "updatetype", "kindofupdate"},
}

#: How similar a misspelling is (`difflib`): one letter of eleven may be wrong, or two be swapped.
#: `update-id`, which somebody may well use, scores 0.89.
_SIMILARITY = 0.9

_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)


def check_names(metadata: Mapping[str, str]) -> None:
    """Refuse metadata whose names resemble ours without being ours.

    Raises
    ------
    UpdateRejected
        With the right name.
    """
    for name in metadata:
        meant = misspelt_name(name, _SYNONYMS)
        if meant:
            raise UpdateRejected(
                f"the metadata name {quoted(name)} is not defined: {meant!r} was probably meant"
            )


def misspelt_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that another name resembles; None if it is known or resembles none."""
    plain_names = {_plain(each): each for each in known}
    plain = _plain(name)
    if name in plain_names.values():
        return None
    for each in plain_names.values():
        if plain in _SYNONYMS.get(each.replace("_", "-"), ()):
            return each
    matches = get_close_matches(plain, plain_names, n=1, cutoff=_SIMILARITY)
    return plain_names[matches[0]] if matches else None


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def num_examples(metadata: Mapping[str, str]) -> int:
    """Return the number of examples that an update claims; 1 if it claims none.

    Raises
    ------
    UpdateRejected
    """
    text = metadata.get(NUM_EXAMPLES, "1")
    count = whole_number(text) or 0
    if not 1 <= count <= settings.MAX_NUM_EXAMPLES:
        raise UpdateRejected(
            f"{NUM_EXAMPLES} is {quoted(text)}, expected a whole number from 1 to "
            f"{settings.MAX_NUM_EXAMPLES}"
        )
    return count


def num_steps(metadata: Mapping[str, str], rule: Rule) -> int | None:
    """Return the number of training steps that an update states; None if it states none.

    Raises
    ------
    UpdateRejected
        If the number is not valid, or the model's rule needs it and there is none.
    """
    text = metadata.get(NUM_STEPS)
    if not text:  # A form sends it empty.
        if rule.needs_steps:
            raise UpdateRejected(
                f"{NUM_STEPS} is missing: {rule.name} divides an update by the number of steps that its "
                "client trained for"
            )
        return None
    steps = whole_number(text) or 0
    if not 1 <= steps <= settings.MAX_NUM_EXAMPLES:
        raise UpdateRejected(
            f"{NUM_STEPS} is {quoted(text)}, expected a whole number from 1 to "
            f"{settings.MAX_NUM_EXAMPLES}"
        )
    return steps


def check_kind(metadata: Mapping[str, str], model_kind: str) -> None:
    """Check the kind that an update claims to be, if it claims one, against the model's.

    Raises
    ------
    UpdateRejected
    """
    kind = metadata.get(UPDATE_KIND) or model_kind
    if kind != model_kind:
        raise UpdateRejected(
            f"{UPDATE_KIND} is {quoted(kind)}, and updates of this model are {model_kind!r}"
        )


def whole_number(text: str) -> int | None:
    """Return a number of at most 18 digits; None if the text is anything else."""
    return int(text) if _COUNT.fullmatch(text) else None

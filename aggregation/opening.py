"""Open the updates of one combination, and reject those whose layout differs from the model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from aggregation.errors import UpdateRejected
from aggregation.formats import NeedsSpool, Spool
from aggregation.layout import Tensor, TensorLayout, layout_difference, list_difference
from aggregation.weights import Weights

#: Opens one update, given the model's layout, if it is known (text takes its dtypes from there), and
#: a spool, if the update may be unpacked. Raises `UpdateRejected` if the update cannot be used, and
#: `NeedsSpool` if it must be unpacked and there is no spool. Called from several threads.
Opener = Callable[[TensorLayout | None, Spool | None], Weights]

#: The updates that were opened, or that must be unpacked to be opened.
Found = dict[int, Weights | NeedsSpool]


def open_consistent(
    openers: Mapping[int, Opener],
    expected_layout: TensorLayout | None,
    threads: int,
    spool: Spool | None = None,
) -> tuple[dict[int, Weights], dict[int, str]]:
    """Open updates, and reject those that cannot be read or have another layout.

    Updates that must be unpacked come last, when the layout is known. They are admitted in the order
    of ``openers`` for as long as the spool has room for the most that each can take. So which of
    them are rejected depends on the updates and on the size of the spool, but not on timing.

    Parameters
    ----------
    openers : mapping of int to Opener
        One for each update, by the key that the caller uses for it.
    expected_layout : TensorLayout, optional
        The model's. By default it is the layout of most updates, so that no single client decides.
    threads : int
        Updates opened at the same time.
    spool : Spool, optional
        For updates that must be unpacked; without it, `NeedsSpool` is raised for them.

    Returns
    -------
    opened : dict of int to Weights
        In the order of ``openers``; all list their tensors in the order of the model.
    rejected : dict of int to str
        The reasons for the other updates.
    """
    found, rejected = _open_all(openers, expected_layout, threads)
    if expected_layout is None and found:
        expected_layout = majority_layout(found.values())
        found, others = _agreeing(found, expected_layout)
        rejected |= others
    unpacked, refused = _unpack(openers, found, expected_layout, threads, spool)
    opened = {key: each for key, each in found.items() if isinstance(each, Weights)} | unpacked
    return {key: opened[key] for key in openers if key in opened}, rejected | refused


def _agreeing(found: Found, expected_layout: TensorLayout) -> tuple[Found, dict[int, str]]:
    """Return the updates that have the layout, and the reasons for the others."""
    agreeing: Found = {}
    rejected = {}
    for key, each in found.items():
        try:
            agreeing[key] = _checked(each, expected_layout)
        except UpdateRejected as error:
            rejected[key] = str(error)
    return agreeing, rejected


def _checked(
    found: Weights | NeedsSpool, expected_layout: TensorLayout | None
) -> Weights | NeedsSpool:
    """Return an update that has the layout, with its tensors in the order of the model.

    The order of its own is forgotten, because each layout of a large model takes megabytes.

    Raises
    ------
    UpdateRejected
        If it has another layout.
    """
    if expected_layout is None:
        return found
    # Text has no dtypes. It takes the model's when it is unpacked, and is compared then.
    if isinstance(found, NeedsSpool) and found.is_text:
        difference = list_difference(expected_layout)
    else:
        difference = layout_difference(expected_layout, found.layout)
    if difference:
        raise UpdateRejected(difference)
    return found.in_order(expected_layout) if isinstance(found, Weights) else found


def _unpack(
    openers: Mapping[int, Opener],
    found: Mapping[int, Weights | NeedsSpool],
    expected_layout: TensorLayout | None,
    threads: int,
    spool: Spool | None,
) -> tuple[dict[int, Weights], dict[int, str]]:
    """Open the updates that must be unpacked, as far as the spool has room for them."""
    admitted: dict[int, Opener] = {}
    rejected = {}
    for key, each in found.items():
        if not isinstance(each, NeedsSpool):
            continue
        if spool is None:
            raise each
        try:
            share = spool.share(
                expected_layout.nbytes if expected_layout and each.is_text else each.needed
            )
        except UpdateRejected as error:
            rejected[key] = str(error)
        else:
            admitted[key] = _into(openers[key], share)
    unpacked, refused = _open_all(admitted, expected_layout, threads)
    opened = {key: each for key, each in unpacked.items() if isinstance(each, Weights)}
    return opened, rejected | refused


def _into(opener: Opener, share: Spool) -> Opener:
    return lambda expected_layout, spool: opener(expected_layout, share)


def _open_all(
    openers: Mapping[int, Opener], expected_layout: TensorLayout | None, threads: int
) -> tuple[Found, dict[int, str]]:
    def attempt(opener: Opener) -> Weights | NeedsSpool | UpdateRejected:
        # A traceback would keep alive what was read of the headers.
        try:
            found: Weights | NeedsSpool = opener(expected_layout, None)
        except NeedsSpool as needs:
            found = needs.with_traceback(None)
        except UpdateRejected as error:
            return error.with_traceback(None)
        try:
            return _checked(found, expected_layout)
        except UpdateRejected as error:
            return error.with_traceback(None)

    found: Found = {}
    rejected = {}
    with ThreadPoolExecutor(threads, "open") as pool:
        for key, result in zip(openers, pool.map(attempt, openers.values()), strict=True):
            if isinstance(result, UpdateRejected):
                rejected[key] = str(result)
            else:
                found[key] = result
    return found, rejected


def first_of_majority(weights: Iterable[Weights]) -> Weights:
    """Return the first update with the layout of the majority, which determines the model's format.

    Text has no dtypes of its own: an update in another format is preferred.
    """
    known = list(weights)
    layout = majority_layout(known)
    return min(
        (each for each in known if each.layout == layout), key=lambda each: each.format == "json"
    )


def majority_layout(known: Iterable[Weights | NeedsSpool]) -> TensorLayout:
    """Return the layout that most of the updates have; of equally frequent ones, the first.

    Layouts that differ in the order of their tensors only count as the same.
    """
    counts = Counter(each.layout for each in known)
    by_tensors: dict[frozenset[Tensor], Counter[TensorLayout]] = {}
    for layout, count in counts.items():
        by_tensors.setdefault(frozenset(layout.tensors), Counter())[layout] = count
    majority = max(by_tensors.values(), key=lambda layouts: layouts.total())
    return next(iter(majority))

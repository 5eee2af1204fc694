"""Opening the updates of one combination: which can be read, and agree on what the model is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from aggregation.errors import UpdateRejected
from aggregation.formats import NeedsSpool, Spool
from aggregation.layout import Tensor, TensorLayout, layout_difference, list_difference
from aggregation.weights import Weights

#: Opens one update. Given the model's layout, if that is known: text takes its dtypes from there;
#: and a spool, if it may be unpacked. Raises `UpdateRejected` where the update cannot be used, and
#: `NeedsSpool` where it needs a spool. Called from several threads.
Opener = Callable[[TensorLayout | None, Spool | None], Weights]

#: What became of the updates that could be opened, or could be if they had a spool.
Found = dict[int, Weights | NeedsSpool]


def open_consistent(
    openers: Mapping[int, Opener],
    expected_layout: TensorLayout | None,
    threads: int,
    spool: Spool | None = None,
) -> tuple[dict[int, Weights], dict[int, str]]:
    """Open updates, and leave out those that are not laid out like the others.

    What must be unpacked is unpacked last, when all that can be known without is known, and is let
    in in the order of ``openers`` as long as there is room for what it takes at most. So which are
    left out follows from the updates and the size of the spool, whichever thread comes first.

    Parameters
    ----------
    openers : mapping of int to Opener
        By what the caller knows the updates by.
    expected_layout : TensorLayout, optional
        The model's. Without one, the layout that most updates have is the model's: one client must
        not decide it.
    threads : int
        Updates opened at the same time.
    spool : Spool, optional
        For what must be unpacked; not needed where nothing must.

    Returns
    -------
    opened : dict of int to Weights
        In the order of ``openers``.
    rejected : dict of int to str
        The others, with the reasons.
    """
    found, rejected = _open_all(openers, expected_layout, threads)
    if expected_layout is None and found:
        expected_layout = majority_layout(found.values())
    for key, each in list(found.items()):
        if expected_layout is None:
            continue
        # Text has no dtypes. It takes the model's when it is unpacked, and is compared then.
        if isinstance(each, NeedsSpool) and each.is_text:
            difference = list_difference(expected_layout)
        else:
            difference = layout_difference(expected_layout, each.layout)
        if difference:
            rejected[key] = difference
            del found[key]
    unpacked, refused = _unpack(openers, found, expected_layout, threads, spool)
    opened = {key: each for key, each in found.items() if isinstance(each, Weights)} | unpacked
    return {key: opened[key] for key in openers if key in opened}, rejected | refused


def _unpack(
    openers: Mapping[int, Opener],
    found: Mapping[int, Weights | NeedsSpool],
    expected_layout: TensorLayout | None,
    threads: int,
    spool: Spool | None,
) -> tuple[dict[int, Weights], dict[int, str]]:
    """Open what must be unpacked, as far as there is room for it."""
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
        try:
            return opener(expected_layout, None)
        except (NeedsSpool, UpdateRejected) as error:
            return error.with_traceback(None)  # which would keep all that was read of the headers

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

"""Opening the updates of one combination: which can be read, and agree on what the model is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from aggregation.errors import UpdateRejected
from aggregation.layout import TensorLayout, layout_difference
from aggregation.weights import Weights

#: Opens one update. Given the model's layout, if that is known: text takes its dtypes from there.
#: Raises `UpdateRejected` where the update cannot be used. Called from several threads.
Opener = Callable[[TensorLayout | None], Weights]


def open_alike(
    openers: Mapping[int, Opener], like: TensorLayout | None, threads: int
) -> tuple[dict[int, Weights], dict[int, str]]:
    """Open updates, and leave out those that are not laid out like the others.

    Parameters
    ----------
    openers : mapping of int to Opener
        By what the caller knows the updates by.
    like : TensorLayout, optional
        The model's. Without one, the layout that most updates have is the model's: one client must
        not decide it.
    threads : int
        Updates opened at the same time.

    Returns
    -------
    opened : dict of int to Weights
        In the order of ``openers``.
    rejected : dict of int to str
        The others, with the reasons.
    """
    opened, rejected = _open_all(openers, like, threads)
    if like is None and opened:
        like = typical(opened.values()).layout
        # Text has no dtype; now that the model's is known, it can be given one.
        text = {key: openers[key] for key, each in opened.items() if not each.layout.named}
        again, refused = _open_all(text, like, threads)
        opened = {key: again.get(key, each) for key, each in opened.items() if key not in refused}
        rejected |= refused
    for key, weights in list(opened.items()):
        difference = layout_difference(like, weights.layout) if like else None
        if difference:
            rejected[key] = difference
            del opened[key]
    return opened, rejected


def _open_all(
    openers: Mapping[int, Opener], like: TensorLayout | None, threads: int
) -> tuple[dict[int, Weights], dict[int, str]]:
    def attempt(opener: Opener) -> Weights | UpdateRejected:
        try:
            return opener(like)
        except UpdateRejected as error:
            return error

    opened, rejected = {}, {}
    with ThreadPoolExecutor(threads, "open") as pool:
        for key, result in zip(openers, pool.map(attempt, openers.values()), strict=True):
            if isinstance(result, UpdateRejected):
                rejected[key] = str(result)
            else:
                opened[key] = result
    return opened, rejected


def typical(weights: Iterable[Weights]) -> Weights:
    """The first that is laid out as most of them are: what the model is where nothing else says so."""
    known = list(weights)
    ((layout, _),) = Counter(each.layout for each in known).most_common(1)
    return next(each for each in known if each.layout == layout)

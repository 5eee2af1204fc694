"""Each rule again in plain numpy and float64, written to be read: the reference for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Updates = Any  # rows of float64


def weighted_mean(w: Updates, n: Sequence[float], p: Updates) -> Updates:
    return np.average(w, axis=0, weights=n)


def unweighted_mean(w: Updates, n: Sequence[float], p: Updates) -> Updates:
    return np.asarray(w.mean(axis=0))


def normalized_mean(
    w: Updates, n: Sequence[float], p: Updates, steps: Sequence[int] | None = None
) -> Updates:
    tau, shares = np.asarray(steps or [2] * len(w)), np.asarray(n) / np.sum(n)
    return np.asarray(p + (shares @ tau) * (shares @ ((w - p) / tau[:, None])))


def coordinate_median(w: Updates, n: Sequence[float], p: Updates) -> Updates:
    return np.median(w, axis=0)


def trimmed_mean(
    w: Updates, n: Sequence[float], p: Updates, *, beta: float = 0, f: int | None = None
) -> Updates:
    cut = int(beta * len(w)) if f is None else f
    return np.asarray(np.sort(w, axis=0)[cut : len(w) - cut].mean(axis=0))


def krum_order(w: Updates, f: int) -> list[int]:
    """Positions from the best score to the worst."""
    scores = []
    for i in range(len(w)):
        others = sorted(float(((w[i] - w[j]) ** 2).sum()) for j in range(len(w)) if j != i)
        scores.append(sum(others[: max(1, len(w) - f - 2)]))
    return sorted(range(len(w)), key=lambda i: (scores[i], i))


def krum(w: Updates, n: Sequence[float], p: Updates, *, f: int) -> Updates:
    return np.asarray(w[krum_order(w, f)[0]])


def multi_krum(
    w: Updates, n: Sequence[float], p: Updates, *, f: int, m: int | None = None
) -> Updates:
    return np.asarray(w[krum_order(w, f)[: m or len(w) - f]].mean(axis=0))


def bulyan(w: Updates, n: Sequence[float], p: Updates, *, f: int) -> Updates:
    left = list(range(len(w)))
    chosen: list[int] = []
    while len(chosen) < len(w) - 2 * f:
        chosen.append(left.pop(krum_order(w[left], f)[0]))
    values = w[sorted(chosen)]
    distance = np.abs(values - np.median(values, axis=0))
    closest = np.argsort(distance, axis=0, kind="stable")[: len(values) - 2 * f]
    return np.asarray(np.take_along_axis(values, closest, axis=0).mean(axis=0))


def geometric_median(w: Updates, n: Sequence[float], p: Updates) -> Updates:
    v: Updates = w.mean(axis=0)
    for _ in range(5000):
        closeness = 1 / np.maximum(1e-6, np.linalg.norm(w - v, axis=1))
        v = (closeness[:, None] * w).sum(axis=0) / closeness.sum()
    return v


def norm_clipped_mean(w: Updates, n: Sequence[float], p: Updates, *, max_norm: float) -> Updates:
    total = np.zeros_like(p)
    for update, count in zip(w, n, strict=True):
        difference = update - p
        norm = np.linalg.norm(difference)
        total += count * difference * min(1.0, max_norm / norm if norm else 1.0)
    return p + total / sum(n)


def centered_clipping(
    w: Updates, n: Sequence[float], p: Updates, *, tau: float | None = None, iterations: int = 1
) -> Updates:
    v = p.copy()
    if tau is None:
        tau = float(np.median(np.linalg.norm(w - p, axis=1)))
    for _ in range(iterations):
        step = np.zeros_like(v)
        for update in w:
            norm = np.linalg.norm(update - v)
            step += (update - v) * min(1.0, tau / norm if norm else 1.0)
        v = v + step / len(w)
    return v


def norm_filtered_mean(
    w: Updates, n: Sequence[float], p: Updates, *, threshold: float = 3.5
) -> Updates:
    norms = np.linalg.norm(w - p, axis=1)
    deviation = np.abs(norms - np.median(norms))
    usual = deviation <= threshold * np.median(deviation) / 0.6745
    return np.average(w[usual], axis=0, weights=np.asarray(n)[usual])


def spectral_filter(w: Updates, n: Sequence[float], p: Updates, *, f: int) -> Updates:
    left = w
    for _ in range(f):
        differences = left - left.mean(axis=0)
        direction = differences[np.argmax(np.linalg.norm(differences, axis=1))]
        for _ in range(100):
            direction = differences.T @ (differences @ direction / np.linalg.norm(direction))
        left = np.delete(left, np.argmax(np.abs(differences @ direction)), axis=0)
    return np.asarray(left.mean(axis=0))


def history_filter(
    w: Updates, n: Sequence[float], p: Updates, *, f: int, directions: Any = None
) -> Updates:
    d = w - p
    norms = np.linalg.norm(d, axis=1)
    d = d * np.minimum(1, np.median(norms) / np.maximum(norms, 1e-300))[:, None]
    left = list(range(len(d)))
    for _ in range(f):
        differences = d[left] - d[left].mean(axis=0)
        direction = differences[np.argmax(np.linalg.norm(differences, axis=1))]
        for _ in range(100):
            direction = differences.T @ (differences @ direction / np.linalg.norm(direction))
        left.pop(int(np.argmax(np.abs(differences @ direction))))
    sums = np.zeros(len(d)) if directions is None else np.array(directions, float)
    for i in range(len(d)):
        others = d[[j for j in left if j != i]].mean(axis=0)
        sums[i] += d[i] @ others / np.linalg.norm(d[i]) / np.linalg.norm(others)
    lowest = [i for i in np.argsort(sums, kind="stable")[:f] if sums[i] < 0]
    return np.asarray(p + np.delete(d, lowest, axis=0).mean(axis=0))


def nnm(w: Updates, p: Updates, f: int) -> Updates:
    """Nearest-neighbour mixing."""
    rows = []
    for update in w:
        order = np.argsort(np.linalg.norm(w - update, axis=1), kind="stable")
        rows.append(w[order[: len(w) - f]].mean(axis=0))
    return np.array(rows)


def arc(w: Updates, p: Updates, f: int) -> Updates:
    """Adaptive robust clipping."""
    norms = np.linalg.norm(w - p, axis=1)
    k = int(2 * f / len(w) * (len(w) - f))
    bound = sorted(norms, reverse=True)[k]
    return p + (w - p) * np.minimum(1, bound / norms)[:, None]


def bucketing(w: Updates, order: Sequence[int], s: int) -> Updates:
    """Means of buckets, for a given order."""
    buckets = [order[first : first + s] for first in range(0, len(w), s)]
    return np.array([w[list(bucket)].mean(axis=0) for bucket in buckets])


def normalize(w: Updates, p: Updates, shortest: float = 0.1) -> Updates:
    """All differences with the median norm; the mean of the others in place of short ones."""
    differences = w - p
    norms = np.linalg.norm(differences, axis=1)
    median = np.median(norms)
    rows = [d * median / norm for d, norm in zip(differences, norms, strict=True)]
    long = [row for row, norm in zip(rows, norms, strict=True) if norm >= shortest * median]
    mean = np.mean(long, axis=0)
    return p + [
        row if norm >= shortest * median else mean for row, norm in zip(rows, norms, strict=True)
    ]

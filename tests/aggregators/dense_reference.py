"""Robust aggregation by textbook formulas on dense float64 arrays (N, D): slow, direct, no code of ppfl in them."""

from __future__ import annotations

import itertools
import math

import numpy as np


def distances(x: np.ndarray) -> np.ndarray:
    return np.sqrt(((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=2))


def nearest(values: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(values, kind="stable")[:count]


def central(x: np.ndarray) -> int:
    return int(np.argmin(np.sort(distances(x), axis=1)[:, len(x) // 2]))


def mean(x):
    return x.mean(axis=0)


def median(x):
    return np.median(x, axis=0)


def trimmed_mean(x, f):
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def meamed(x, f):
    middle = np.median(x, axis=0)
    return np.array([x[nearest(np.abs(x[:, d] - middle[d]), len(x) - f), d].mean() for d in range(x.shape[1])])


def krum_scores(x, f):
    squares = distances(x) ** 2
    return np.array([np.sort(np.delete(squares[i], i))[: len(x) - f - 2].sum() for i in range(len(x))])


def krum(x, f):
    return x[np.argmin(krum_scores(x, f))]


def multi_krum(x, f, keep=None):
    return x[nearest(krum_scores(x, f), len(x) - f if keep is None else keep)].mean(axis=0)


def geometric_median(x, smoothing=1e-6):
    start = x[nearest(distances(x)[central(x)], len(x) // 2 + 1)].mean(axis=0)
    spread = np.sort(np.linalg.norm(x - start, axis=1))[len(x) // 2]
    v = start
    for _ in range(100 if spread else 0):
        inverse = 1 / np.maximum(smoothing * spread, np.linalg.norm(x - v, axis=1))
        v = (inverse[:, None] * x).sum(axis=0) / inverse.sum()
    return v


def centered_clipping(x, radius, steps=3, start="majority"):
    v = x[central(x)] if start == "majority" else np.zeros_like(x[0])
    for _ in range(steps):
        lengths = np.linalg.norm(x - v, axis=1, keepdims=True)
        v = v + ((x - v) * np.minimum(1, radius / np.maximum(lengths, 1e-300))).mean(axis=0)
    return v


def mda(x, f):
    between, best, least = distances(x), None, math.inf
    for kept in itertools.combinations(range(len(x)), len(x) - f):
        diameter = between[np.ix_(kept, kept)].max()
        if diameter < least:
            best, least = list(kept), diameter
    return x[best].mean(axis=0)


def mda_by_balls(x, f):
    between = distances(x)
    balls = [nearest(between[i], len(x) - f) for i in range(len(x))]
    best = np.argmin([between[np.ix_(ball, ball)].max() for ball in balls])
    return x[balls[best]].mean(axis=0)


def monna(x, f):
    return x[nearest(distances(x)[central(x)], len(x) - f)].mean(axis=0)


def cge(x, f):
    lengths = np.linalg.norm(x, axis=1)
    # what clipping has made equally long differs in the last digits
    return x[nearest(np.round(lengths / lengths.max(), 9), len(x) - f)].mean(axis=0)


def caf(x, f):
    c, best, least = np.ones(len(x)), x.mean(axis=0), math.inf
    while f and c.sum() > len(x) - 2 * f:
        mu = (c[:, None] * x).sum(axis=0) / c.sum()
        covariance = ((c[:, None] * (x - mu)).T @ (x - mu)) / c.sum()
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < least:
            best, least = mu, values[-1]
        tau = ((x - mu) @ vectors[:, -1]) ** 2
        largest = tau[c > 0].max()
        if largest == 0:
            break
        c = np.maximum(c * (1 - tau / largest), 0)
    return best


def bucketing(x, size, order):
    return np.array([x[order[start : start + size]].mean(axis=0) for start in range(0, len(x), size)])


def nnm(x, f):
    between = distances(x)
    return np.array([x[nearest(between[i], len(x) - f)].mean(axis=0) for i in range(len(x))])


def clipping(x, threshold):
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x * np.minimum(1, threshold / np.maximum(lengths, 1e-300))


def arc(x, f):
    lengths = np.linalg.norm(x, axis=1)
    num_clipped = math.floor(2 * (f / len(x)) * (len(x) - f) + 1e-9)
    return clipping(x, np.sort(lengths)[len(x) - num_clipped - 1])

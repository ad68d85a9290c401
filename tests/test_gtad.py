"""Temporal localisation finds planted events, says what the field's code says, and refuses nonsense."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vplib import paths
from vplib.evaluate import gtad, proposals

GOLDEN = json.loads((paths.ROOT / "tests" / "golden" / "evaluation" / "gtad.json").read_text())
SIZES = dict(positions=32, width=32, groups=4, bins=8, hidden=32, map_width=16)
RECIPE = SIZES | dict(epochs=20, batch=16, learning_rate=4e-3, weight_decay=1e-4)


def named(section: str):
    """Every golden case of a section, under its name."""
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case["name"]) for case in GOLDEN[section]]
    )


def planted(videos: int, seed: int, strength: float = 3.0):
    """Noise windows, with one direction in those of one or two events; and the events."""
    rng = np.random.default_rng(seed)
    features, segments = [], []
    for _ in range(videos):
        windows = int(rng.integers(40, 70))
        x, found = rng.normal(size=(windows, 16)), []
        for half in range(rng.integers(1, 3)):
            start = 0.5 * half + rng.uniform(0.02, 0.2)
            end = start + rng.uniform(0.08, 0.25)
            centre = (np.arange(windows) + 0.5) / windows
            x[(centre >= start) & (centre < end)] += strength * np.eye(16)[3]
            found.append((start, end))
        features.append(x.astype(np.float16))
        segments.append(np.array(found))
    return features, segments


def soft_nms(segments, scores, *, sigma, keep):
    """The contract only: gaussian decay by overlap, best first."""
    segments, scores, taken = segments.copy(), scores.copy(), []
    while len(scores) > 1 and len(taken) < keep:
        best = scores.argmax()
        taken.append((segments[best], scores[best]))
        near = iou(segments, segments[best])
        scores = np.delete(scores * np.exp(-(near**2) / sigma), best)
        segments = np.delete(segments, best, 0)
    return np.array([s for s, _ in taken]).reshape(-1, 2), np.array([s for _, s in taken])


def iou(segments, one):
    shared = np.minimum(segments[:, 1], one[1]) - np.maximum(segments[:, 0], one[0])
    shared = np.maximum(shared, 0)
    return shared / (np.ptp(segments, axis=1) + one[1] - one[0] - shared)


def recall(proposed, segments, *, tiou, best):
    """Share of the events that one of a video's `best` proposals covers."""
    hits = []
    for (found, scores), truth in zip(proposed, segments, strict=True):
        found = found[np.argsort(-scores, kind="stable")[:best]]
        hits += [(iou(found, one) >= tiou).any() for one in truth]
    return np.mean(hits)

"""What session 5 checks: collectives on arrays with an axis of devices, and losses over them."""

import numpy as np

from vplib.course.check import Case


def all_reduce(gradients):
    """What every device holds after the mean: (D, P) of (D, P)."""
    return np.tile(gradients.mean(0), (len(gradients), 1))


def reduce_scatter(gradients):
    """Device d holds part d of the sum: (D, P / D) of (D, P)."""
    return gradients.sum(0).reshape(len(gradients), -1)


def _logsumexp(x):
    largest = x.max(-1, keepdims=True)
    return np.log(np.exp(x - largest).sum(-1)) + largest[..., 0]


def own_rows(v, t, scale, d):
    """The loss of device d over its own clips and texts, against those of all: v, t are (D, b, E)."""
    clips, texts = v.reshape(-1, v.shape[-1]), t.reshape(-1, t.shape[-1])
    of_clip, of_text = _logsumexp(scale * v[d] @ texts.T), _logsumexp(scale * t[d] @ clips.T)
    return (of_clip + of_text - 2 * scale * (v[d] * t[d]).sum(-1)).mean() / 2


def _alone(v, t, scale, d):
    return own_rows(v[d : d + 1], t[d : d + 1], scale, 0)


def _one_way(v, t, scale, d):
    texts = t.reshape(-1, t.shape[-1])
    return (_logsumexp(scale * v[d] @ texts.T) - scale * (v[d] * t[d]).sum(-1)).mean()


def traffic(count, devices, split):
    """Bytes in float32 that a device sends in a step: parameters copied, or `split` (FSDP)."""
    once = 4 * count * (devices - 1) / devices
    return (3 if split else 2) * once


def accumulated(v, t, scale, k):
    """The loss that is minimised when gradients of k consecutive parts are averaged: v, t (B, E)."""
    parts = [x.reshape(k, -1, x.shape[-1]) for x in (v, t)]
    return np.mean([_alone(*parts, scale, d) for d in range(k)])


def _vectors(*shape):
    """Unit vectors of clips, and of texts that resemble them."""
    rng = np.random.default_rng(7)
    v = rng.normal(size=shape)
    t = v + 0.8 * rng.normal(size=shape)
    return [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (v, t)]


def _gradients():
    return [(np.random.default_rng(5).normal(size=(4, 12)),)]


CASES = {
    "5.4": Case(
        right=all_reduce,
        inputs=_gradients,
        wrong=[
            (
                lambda g: np.tile(g.sum(0), (len(g), 1)),
                "this is the sum: the loss is a mean over clips, so is its gradient (bug A)",
            ),
            (lambda g: g, "nothing was exchanged: each device still has the gradient of its clips"),
            (
                lambda g: g.mean(0),
                "that is one copy: after an all-reduce every device holds the result, (D, P)",
            ),
        ],
    ),
    "5.5": Case(
        right=reduce_scatter,
        inputs=_gradients,
        wrong=[
            (
                lambda g: np.tile(g.sum(0), (len(g), 1)),
                "this is an all-reduce: device d keeps part d alone, P / D numbers",
            ),
            (
                lambda g: g.mean(0).reshape(len(g), -1),
                "this is the mean: a reduce-scatter adds, who wants a mean divides afterwards",
            ),
            (
                lambda g: np.stack([np.split(g[d], len(g))[d] for d in range(len(g))]),
                "each device keeps its own part of its own gradient: add those of all devices",
            ),
        ],
    ),
    "5.6": Case(
        right=own_rows,
        inputs=lambda: [(*_vectors(4, 3, 8), 8.0, 1)],
        wrong=[
            (_alone, "these are the own pairs alone: gather the vectors of all devices"),
            (_one_way, "one direction is missing: a text must find its clip, too"),
            (
                lambda v, t, scale, d: 2 * own_rows(v, t, scale, d),
                "the loss is the mean of both directions, not their sum",
            ),
            (
                lambda v, t, scale, d: np.mean([own_rows(v, t, scale, k) for k in range(len(v))]),
                "this is the loss of the whole batch: device d adds up its own rows only",
            ),
        ],
    ),
    "5.7": Case(
        right=traffic,
        inputs=lambda: [(1000, 8, True), (1000, 8, False), (64, 2, True)],
        wrong=[
            (
                lambda count, devices, split: traffic(count, devices, split) / 4,
                "a number in float32 takes four bytes",
            ),
            (
                lambda count, devices, split: traffic(count, devices, False),
                "split parameters are gathered twice, forward and backward, and then scattered",
            ),
            (
                lambda count, devices, split: traffic(count, devices, split) * devices,
                "that is what all devices send together: divide by their number",
            ),
        ],
    ),
    "5.8": Case(
        right=accumulated,
        inputs=lambda: [(*_vectors(12, 8), 8.0, 3), (*_vectors(12, 8), 0.0, 4)],
        wrong=[
            (
                lambda v, t, scale, k: own_rows(v[None], t[None], scale, 0),
                "this is the loss of the whole batch: a part never meets the other parts",
            ),
            (
                lambda v, t, scale, k: k * accumulated(v, t, scale, k),
                "this adds the parts up: averaged gradients belong to the mean of their losses",
            ),
            (
                lambda v, t, scale, k: accumulated(v, t, scale, len(v) // k),
                "these are parts of k pairs: k is the number of parts",
            ),
        ],
    ),
}

"""What session 1 checks: patches, normalisation, attention, space and time, pooling."""

import jax.numpy as jnp
import numpy as np

from vplib.course.check import Case
from vplib.model.encoders import patchify

CAP = 50.0  # of attention logits


def _rng() -> np.random.Generator:
    return np.random.default_rng(1)


def _normal(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = _rng()
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def _squares(frames, p):
    t, h, w, c = frames.shape
    return frames.reshape(t, h // p, p, w // p, p, c)  # T row r column c 3


def _patches(frames, p):
    return np.asarray(patchify(jnp.asarray(frames)[None], p))[0]


def _flat(x, frames, p):
    return x.reshape(len(frames), -1, 3 * p * p)


def norm(x, scale, bias, *, offset=1.0, axis=-1, ddof=0):
    """Offset LayerNorm over the last axis, and its usual mistakes."""
    x = x - x.mean(axis, keepdims=True)
    return x / np.sqrt(x.var(axis, ddof=ddof, keepdims=True) + 1e-6) * (offset + scale) + bias


def _softmax(x, axis=-1):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def attend(q, k, v, *, cap=CAP, root=True, axis=-1, inside=True):
    """Capped attention of queries (N, H) over keys and values (M, H), and its usual mistakes."""
    logits = q @ k.T / (q.shape[-1] ** 0.5 if root else 1)
    if cap:
        logits = cap * np.tanh(logits / cap if inside else logits)
    return _softmax(logits, axis) @ v


def _space(x):
    """Stands for a stack that mixes the tokens of the second axis from the end."""
    return np.tanh(x + 0.5 * np.cumsum(x, axis=-2))


def _time(x):
    return np.tanh(x - 0.3 * np.cumsum(x[..., ::-1, :], axis=-2))


def factorised(x, space, time):
    """Space within each frame, then time at each place; x is (T, N, D)."""
    return time(space(x).swapaxes(0, 1)).swapaxes(0, 1)


def pool(x, query, key, value, *, axis=0, root=True):
    """Attention pooling of tokens (S, D): a query (K, H) a head; key, value (D, K, H); (K * H)."""
    keys, values = np.einsum("sd,dkh->skh", x, key), np.einsum("sd,dkh->skh", x, value)
    logits = np.einsum("kh,skh->sk", query, keys) / (query.shape[-1] ** 0.5 if root else 1)
    return np.einsum("sk,skh->kh", _softmax(logits, axis), values).reshape(-1)


def _mean_pool(x, query, key, value):
    return np.einsum("sd,dkh->kh", x, value).reshape(-1) / len(x)


CASES = {
    "1.4": Case(
        right=_patches,
        inputs=lambda: [(x, 2) for x in _normal((2, 4, 6, 3), (1, 4, 4, 3))],
        wrong=[
            (
                lambda f, p: _flat(_squares(f, p).transpose(0, 3, 1, 2, 4, 5), f, p),
                "your patches go down the columns: the order is that of reading, row after row",
            ),
            (
                lambda f, p: _flat(_squares(f, p).transpose(0, 1, 3, 5, 2, 4), f, p),
                "inside a patch yours puts colour first: the order is (row, column, colour)",
            ),
            (
                lambda f, p: _flat(_squares(f, p).transpose(0, 1, 3, 4, 2, 5), f, p),
                "inside a patch yours goes down the columns: the order is (row, column, colour)",
            ),
            (
                lambda f, p: _flat(f, f, p),
                "a reshape alone cuts strips, not squares: split rows and columns, then swap axes",
            ),
        ],
    ),
    "1.5": Case(
        right=norm,
        inputs=lambda: [tuple(_normal((5, 8), (8,), (8,)))],
        wrong=[
            (
                lambda x, s, b: norm(x, s, b, offset=0.0),
                "the stored scale is an offset from one: multiply by 1 + scale",
            ),
            (
                lambda x, s, b: norm(x, s, b, axis=0),
                "your mean is over the wrong axis: each token is normalised over its own features",
            ),
            (
                lambda x, s, b: norm(x, s, b, ddof=1),
                "your variance divides by D - 1: LayerNorm divides by D",
            ),
            (
                lambda x, s, b: (
                    (x - x.mean(-1, keepdims=True)) / x.var(-1, keepdims=True) * (1 + s) + b
                ),
                "you divide by the variance: take its square root",
            ),
        ],
        tolerance=1e-3,
    ),
    "1.6": Case(
        right=attend,
        inputs=lambda: [
            tuple(_normal((4, 16), (6, 16), (6, 8))),
            tuple(x * s for x, s in zip(_normal((4, 16), (6, 16), (6, 8)), (9, 9, 1), strict=True)),
        ],
        wrong=[
            (
                lambda q, k, v: attend(q, k, v, root=False),
                "the logits are not divided by the root of the head's width: q k / sqrt(H)",
            ),
            (
                lambda q, k, v: attend(q, k, v, axis=0),
                "your softmax is over the queries: each query shares out one unit among the keys",
            ),
            (
                lambda q, k, v: attend(q, k, v, cap=None),
                "the cap is missing: 50 tanh(logits / 50) before the softmax",
            ),
            (
                lambda q, k, v: attend(q, k, v, inside=False),
                "divide by the cap inside the tanh, too: 50 tanh(logits / 50)",
            ),
        ],
    ),
    "1.7": Case(
        right=factorised,
        inputs=lambda: [(x, _space, _time) for x in _normal((3, 4, 2), (3, 3, 2))],
        wrong=[
            (
                lambda x, space, time: time(space(x)),
                "time ran over the places of a frame: bring frames to the second axis from the end",
            ),
            (
                lambda x, space, time: time(space(x).swapaxes(0, 1)),
                "your result is (N, T, D): swap the two axes back at the end",
            ),
            (
                lambda x, space, time: space(time(x.swapaxes(0, 1)).swapaxes(0, 1)),
                "you ran time first: each frame goes through the space stack before frames meet",
            ),
            (
                lambda x, space, time: time(space(x.reshape(-1, x.shape[-1]))).reshape(x.shape),
                "you made one sequence of all tokens: space works within a frame, time at a place",
            ),
        ],
    ),
    "1.8": Case(
        right=pool,
        inputs=lambda: [tuple(_normal((7, 6), (2, 4), (6, 2, 4), (6, 2, 4)))],
        wrong=[
            (
                _mean_pool,
                "your tokens all weigh the same: weigh values by softmax(query · key / sqrt(H))",
            ),
            (
                lambda *a: pool(*a, axis=1),
                "your softmax is over the heads: each head shares out one unit among the tokens",
            ),
            (
                lambda *a: pool(*a, root=False),
                "the logits are not divided by the root of the head's width: q k / sqrt(H)",
            ),
        ],
    ),
}

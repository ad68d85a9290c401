"""How well texts fit videos by a model that sees single frames, and what such scores are worth.

The paper scores its corpora by a CLIP-like model (arXiv:2402.13217, Table 8, figure 5) and filters two of
them so (appendix A). Such a model is trained here, on other clips than those it scores; where the
truth is known, its scores can be held against it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Bool, Float, Int, UInt8
from scipy.stats import rankdata

from vplib.data import pipeline
from vplib.data.text import Tokenizer
from vplib.evaluate import features, metrics
from vplib.model.encoders import VideoText
from vplib.progress import Progress
from vplib.train.loop import TrainingError

CLIPS = 64  # encoded at a time


class Pairs(NamedTuple):
    """Clips, some frames of each, and their texts."""

    frames: UInt8[np.ndarray, "C T S S 3"]
    texts: list[str]


def cropped(frames: UInt8[np.ndarray, "C T H W 3"], size: int) -> UInt8[np.ndarray, "C T S S 3"]:
    """The central square of `size` pixels, as `pipeline.read_clip` shows it."""
    return np.stack([pipeline.crop(clip, size) for clip in frames])


def fit(
    stage: nnx.Module,
    loss: Callable,
    tx: optax.GradientTransformation,
    pairs: Pairs,
    tokenizer: Tokenizer,
    *,
    steps: int,
    batch: int,
    seed: int,
    title: str,
) -> nnx.Module:
    """`stage` (`method.stages.Stage1`) trained on single frames and texts; equal arguments, equal bits.

    Each step draws `batch` different clips, all if there are fewer, and a frame of each. `loss` is
    as in `train.loop.fit`; given the same `loss` and `tx` again, nothing is compiled again. Raises
    TrainingError when the last loss is not finite.
    """
    ids, keep = tokenizer(pairs.texts)
    graph, params, rest = nnx.split(stage, nnx.Param, ...)
    state, rng, key = tx.init(params), np.random.default_rng(seed), jax.random.key(seed)
    clips, moments, *_ = pairs.frames.shape
    value = np.nan
    with Progress(steps, title) as progress:
        for step in range(steps):
            rows = rng.choice(clips, min(batch, clips), replace=False)
            shown = pairs.frames[rows, rng.integers(moments, size=len(rows))][:, None]
            given = {"video": shown, "ids": ids[rows], "keep": keep[rows]}
            jax.block_until_ready(params)
            params, state, value = _step(graph, loss, tx, params, state, rest, given, key)
            progress.update(step + 1)
    if not np.isfinite(value):
        raise TrainingError(f"{title}: the loss is not finite: lower grounding.learning_rate")
    return nnx.merge(graph, params, rest)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _step(graph, loss, tx, params, state, rest, batch, key):
    def value_of(params):
        return loss(nnx.merge(graph, params, rest), batch, key=key)[0]

    value, grads = jax.value_and_grad(value_of)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def embed_frames(
    model: VideoText, frames: UInt8[np.ndarray, "C T S S 3"]
) -> Float[np.ndarray, "C E"]:
    """One vector of unit length a clip: the mean of those of its frames, each seen alone."""
    found, (clips, moments, *frame) = [], frames.shape
    for start in range(0, clips, CLIPS):
        rows = np.minimum(np.arange(start, start + CLIPS), clips - 1)  # one shape, one program
        alone = features.embeddings_of(model)(frames[rows].reshape(-1, 1, *frame))
        found.append(np.asarray(alone).reshape(CLIPS, moments, -1).mean(1))
    mean = np.concatenate(found)[:clips]
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def embed(
    model: VideoText, tokenizer: Tokenizer, pairs: Pairs
) -> tuple[Float[np.ndarray, "C E"], Float[np.ndarray, "C E"]]:
    """`embed_frames` of the clips, and the embeddings of their texts."""
    return embed_frames(model, pairs.frames), features.embed_texts(model, tokenizer, pairs.texts)


def hits(
    videos: Float[np.ndarray, "C E"], texts: Float[np.ndarray, "C E"]
) -> Float[np.ndarray, " C"]:
    """Of each clip the mean of its R@1 in both directions, text to video and video to text, as in the
    last column of the paper's Table 8: 0, 0.5 or 1.
    """
    similarity, own = texts @ videos.T, np.arange(len(videos))
    return (metrics.recall_at(similarity, own, k=1) + metrics.recall_at(similarity.T, own, k=1)) / 2


# --- choosing clips ------------------------------------------------------------------------------


def best(
    scores: Float[np.ndarray, " C"], group: Int[np.ndarray, " C"], share: float
) -> Int[np.ndarray, " N"]:
    """Rows of the `share` of each group with the highest scores, the earlier of equal ones first: so
    the groups stay as large beside each other as they are.
    """
    order = np.argsort(-scores, kind="stable")
    rows = [order[group[order] == one] for one in np.unique(group)]
    return np.sort(np.concatenate([part[: round(share * len(part))] for part in rows]))


# --- scores against the truth --------------------------------------------------------------------


def separation(scores: Float[np.ndarray, " C"], right: Bool[np.ndarray, " C"]) -> float:
    """How often a right text has a higher score than one that is not, in [0, 1], ties half: the area
    under the ROC curve; 0.5 by chance, NaN where all are right or none is.
    """
    some, others = int(right.sum()), int((~right).sum())
    if not (some and others):
        return float("nan")
    return float((rankdata(scores)[right].sum() - some * (some + 1) / 2) / (some * others))


def rank_correlation(x: Float[np.ndarray, " C"], y: Float[np.ndarray, " C"]) -> float:
    """Spearman's, ties at their mean rank; NaN where one of both is constant."""
    x, y = (rankdata(one) - (len(one) + 1) / 2 for one in (x, y))
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size else float("nan")


def over_clips(
    measure: Callable[..., float], *columns: np.ndarray, draws: int = 500
) -> tuple[float, float, float]:
    """`measure` of these columns and its 95% bootstrap interval over clips; draws of which it says
    nothing are left out.
    """
    value = measure(*columns)
    drawn = metrics.bootstrap(
        lambda _, rows: measure(*(column[rows] for column in columns)),
        1,
        len(columns[0]),
        draws=draws,
    )
    drawn = drawn[np.isfinite(drawn)]
    return metrics.between(value, drawn) if len(drawn) else (value, value, value)


def over_few(x: Float[np.ndarray, " C"], y: Float[np.ndarray, " C"]) -> tuple[float, float, float]:
    """`rank_correlation` of few items, such as corpora, and its 95% interval by Fisher's z with the
    variance 1.06 / (n - 3) (Fieller, Hartley and Pearson 1957); NaN for fewer than four.

    Where all ranks agree, z has no bound: the interval is then that of one pair of neighbours
    swapped, up to 1 (our choice).
    """
    value, count = rank_correlation(x, y), len(x)
    if count < 4 or np.isnan(value):
        return value, float("nan"), float("nan")
    nearest = 1 - 12 / (count * (count**2 - 1))
    half = 1.96 * np.sqrt(1.06 / (count - 3))
    z = np.arctanh(np.clip(value, -nearest, nearest))
    low, high = np.tanh(z - half), np.tanh(z + half)
    return value, float(min(low, value)), float(max(high, value))

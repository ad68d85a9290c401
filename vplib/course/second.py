"""What session 2 checks: the contrastive loss in three forms, retrieval, and spoilt captions."""

import jax
import jax.numpy as jnp
import numpy as np

from vplib.course.check import Case
from vplib.method.losses import contrastive


def _pairs(*, cold: bool = False) -> list[tuple]:
    """Clips and texts (8, 5) of unit length and a temperature, two of each; `cold`: a third."""
    rng, found = np.random.default_rng(2), []
    for temperature in (0.5, 0.07, 0.005)[: 3 if cold else 2]:
        video = rng.normal(size=(8, 5)).astype(np.float32)
        text = video + 0.8 * rng.normal(size=video.shape).astype(np.float32)
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video, text)]
        found.append((*unit, temperature))
    return found


def info_nce(video, text, temperature):
    """The library's loss, of a temperature."""
    return contrastive(jnp.asarray(video), jnp.asarray(text), jnp.asarray(1 / temperature))


def _half(video, text, scale, axis):
    logits = scale * (video @ text.T)
    return (jax.nn.logsumexp(logits, axis) - jnp.diagonal(logits)).mean()


def _streamed(video, text, temperature, chunk, *, rescale):
    """One pass over chunks of rows; without `rescale` it forgets to bring the old sum along."""
    highest, total = np.full(len(text), -np.inf), np.zeros(len(text))
    rows = 0.0
    for start in range(0, len(video), chunk):
        logits = video[start : start + chunk] @ text.T / temperature
        rows += np.asarray(jax.nn.logsumexp(logits, 1)).sum()
        new = np.maximum(highest, logits.max(0))
        total = total * (np.exp(highest - new) if rescale else 1) + np.exp(logits - new).sum(0)
        highest = new
    own = (video * text).sum() / temperature
    return (rows + (highest + np.log(total)).sum() - 2 * own) / (2 * len(video))


def _alone(video, text, temperature, chunk):
    starts = range(0, len(video), chunk)
    return np.mean(
        [info_nce(video[s : s + chunk], text[s : s + chunk], temperature) for s in starts]
    )


def _bare(video, text, temperature, chunk):
    """Exponentials without the largest logit taken out."""
    with np.errstate(all="ignore"):
        logits = video @ text.T / temperature
        sums = np.log(np.exp(logits).sum(1)) + np.log(np.exp(logits).sum(0))
        return (sums - 2 * np.diagonal(logits)).mean() / 2


def recall(video, text, *, axis=0):
    """The share of texts whose own clip is the most similar of all."""
    return (np.asarray(video @ text.T).argmax(axis) == np.arange(len(video))).mean()


LOSSES = [
    (
        lambda v, t, tau: info_nce(v, t, 1 / tau),
        "you multiply by the temperature: logits are cosines divided by it",
    ),
    (
        lambda v, t, tau: info_nce(v, t, 1.0),
        "the temperature is missing: logits are cosines divided by it",
    ),
    (
        lambda v, t, tau: _half(v, t, 1 / tau, 1),
        "you play one game only, clip to text: add the one from text to clip, and halve the sum",
    ),
    (
        lambda v, t, tau: _half(v, t, 1 / tau, 0),
        "you play one game only, text to clip: add the one from clip to text, and halve the sum",
    ),
    (
        lambda v, t, tau: 2 * info_nce(v, t, tau),
        "yours is the sum of the two games: take their mean, so that ignorance costs log B",
    ),
    (
        lambda v, t, tau: len(v) * info_nce(v, t, tau),
        "yours is a sum over the batch: take the mean over the clips",
    ),
    (
        lambda v, t, tau: info_nce(v, t, tau) / np.log(2),
        "yours is in bits: take natural logarithms",
    ),
]
CHANCE = "with equal embeddings the loss must be log B"


def _at_chance(given):
    same = np.full((16, 4), 0.5, np.float32)
    return None if abs(float(given(same, same, 0.07)) - np.log(16)) < 1e-3 else CHANCE


def _gradient(given):
    video, text, temperature = _pairs()[0]
    hint = "no gradient comes through: stay with jax.numpy, without float() and numpy"
    try:
        mine = jax.grad(lambda v: given(v, jnp.asarray(text), temperature))(jnp.asarray(video))
    except Exception:
        return hint
    right = jax.grad(info_nce)(jnp.asarray(video), jnp.asarray(text), temperature)
    return None if np.allclose(mine, right, atol=1e-4) else hint


def _spoilt(given):
    """What spoil(count, rate, rng) must be: which clip each text describes."""
    rng, count = np.random.default_rng(0), 4000
    at = np.asarray(given(count, 0.3, rng))
    if at.shape != (count,) or not np.issubdtype(at.dtype, np.integer):
        return f"wanted are {count} whole numbers, the clip that each text describes"
    if ((at < 0) | (at >= count)).any():
        return "some texts describe a clip that is not there: the text after the last is the first"
    moved = (at - np.arange(count)) % count
    if set(np.unique(moved)) - {0, 1}:
        return "a wrong text describes the next clip, i + 1, and a right one its own, i"
    share = moved.mean()
    if abs(share - 0.7) < 0.03:
        return "you spoil 1 - rate of the texts: rng.random(count) < rate is true for a share rate"
    if abs(share - 0.3) > 0.03:
        return f"you spoil {share:.0%} of the texts where 30% were asked for"
    if (np.asarray(given(count, 0.3, rng)) == at).all():
        return "the same texts are wrong every time: draw them with the rng that you are given"
    return None


def _moved(wrong):
    count = len(wrong)
    return (np.arange(count) + wrong) % count


CASES = {
    "2.4": Case(right=info_nce, inputs=_pairs, wrong=LOSSES, properties=[_at_chance]),
    "2.5": Case(
        right=info_nce,
        inputs=_pairs,
        wrong=[
            *LOSSES,
            (
                lambda v, t, tau: float(info_nce(np.asarray(v), np.asarray(t), tau)),
                "no gradient comes through: stay with jax.numpy, without float() and numpy",
            ),
        ],
        properties=[_at_chance, _gradient],
    ),
    "2.6": Case(
        right=lambda v, t, tau, chunk: info_nce(v, t, tau),
        inputs=lambda: [(*pair, chunk) for pair in _pairs(cold=True) for chunk in (4, 2, 8)],
        wrong=[
            (
                lambda *a: _streamed(*a, rescale=False),
                "when a larger logit comes, the old sum must be scaled down: times exp(old - new)",
            ),
            (
                _alone,
                "each chunk plays its own small game: a clip competes with all texts of the batch",
            ),
            (
                _bare,
                "exp overflows where the temperature is low: take the largest logit out first",
            ),
        ],
    ),
    "2.7": Case(
        right=recall,
        inputs=lambda: [pair[:2] for pair in _pairs()],
        wrong=[
            (
                lambda v, t: recall(v, t, axis=1),
                "yours finds a text for each clip: here each text looks for its clip",
            ),
            (lambda v, t: 100 * recall(v, t), "yours is in per cent: return a share from 0 to 1"),
            (
                lambda v, t: len(v) * recall(v, t),
                "yours is a count: divide by the number of texts",
            ),
        ],
    ),
    "2.8": Case(
        right=None,
        wrong=[
            (
                lambda count, rate, rng: _moved(rng.random(count) >= rate),
                "you spoil 1 - rate of the texts: rng.random(count) < rate is true for a share rate",
            ),
            (
                lambda count, rate, rng: _moved(np.arange(count) < rate * count),
                "the same texts are wrong every time: draw them with the rng that you are given",
            ),
            (
                lambda count, rate, rng: np.arange(count) + (rng.random(count) < rate),
                "some texts describe a clip that is not there: the text after the last is the first",
            ),
            (
                lambda count, rate, rng: rng.permutation(count),
                "a wrong text describes the next clip, i + 1, and a right one its own, i",
            ),
        ],
        properties=[_spoilt],
    ),
}

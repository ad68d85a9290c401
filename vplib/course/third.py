"""What session 3 checks: masks, permutations, Algorithm 1 and both losses of the second stage."""

import jax.numpy as jnp
import numpy as np

from vplib.course.check import Case
from vplib.method import losses


def _normal(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def _visible(given):
    """What visible(rng, tokens, ratio) must be: the places that stay, in order, exactly as many."""
    rng, tokens, ratio = np.random.default_rng(0), 256, 0.65
    drawn = [np.asarray(given(rng, tokens, ratio)) for _ in range(40)]
    count = tokens - round(ratio * tokens)
    if any(d.ndim != 1 or not np.issubdtype(d.dtype, np.integer) for d in drawn):
        return "wanted are the numbers of the visible places: one axis of whole numbers"
    if {len(d) for d in drawn} == {round(ratio * tokens)}:
        return "these are the hidden places: the ratio says how many are hidden, return the others"
    if len({len(d) for d in drawn}) > 1:
        return "the number of places changes from draw to draw: draw an order and take the first"
    if len(drawn[0]) != count:
        return f"{len(drawn[0])} places stay where {count} should: tokens - round(ratio * tokens)"
    if any((d < 0).any() or (d >= tokens).any() for d in drawn):
        return f"places are numbered from 0 to {tokens - 1}"
    if any(len(np.unique(d)) < len(d) for d in drawn):
        return "a place was drawn twice: draw without replacement"
    if any((np.diff(d) < 0).any() for d in drawn):
        return "the places are not in order: sort them at the end"
    if all((d == drawn[0]).all() for d in drawn):
        return "every clip has the same mask: draw it with the rng that you are given"
    return None


def decoder_input(seen, mask_token, positions, order):
    """Steps 1 to 4 of Algorithm 1 for one clip: (S, D)."""
    hidden = len(positions) - len(seen)
    return np.concatenate([seen, np.tile(mask_token, (hidden, 1))])[order] + positions


def _masks_first(seen, mask_token, positions, order):
    hidden = len(positions) - len(seen)
    return np.concatenate([np.tile(mask_token, (hidden, 1)), seen])[order] + positions


def _still(seen, mask_token, positions, order):
    return decoder_input(seen, mask_token, positions, np.arange(len(order)))


def _before(seen, mask_token, positions, order):
    return _still(seen, mask_token, positions, order)[order]


def _back(seen, mask_token, positions, order):
    return decoder_input(seen, mask_token, positions, np.argsort(order))


def cosine_distance(student, teacher):
    """The library's, in numpy."""
    return np.asarray(losses.cosine_distance(jnp.asarray(student), jnp.asarray(teacher)))


def stage2_loss(local, local_target, masked, whole, whole_target):
    """Token loss over all places, visible and masked, plus global loss, with equal weights."""
    tokens = cosine_distance(local, local_target).mean()
    return tokens + cosine_distance(whole, whole_target).mean()


def _masked_only(local, local_target, masked, whole, whole_target):
    distance = cosine_distance(local, local_target)
    return (distance * masked).sum() / masked.sum() + cosine_distance(whole, whole_target).mean()


def _summed(local, local_target, masked, whole, whole_target):
    tokens = cosine_distance(local, local_target).sum(-1).mean()
    return tokens + cosine_distance(whole, whole_target).mean()


def _outputs() -> list[tuple]:
    local, target, whole, aim = _normal(5, (3, 6, 8), (3, 6, 8), (3, 8), (3, 8))
    masked = (np.arange(18).reshape(3, 6) % 3 != 0).astype(np.float32)
    return [(local, local + target, masked, whole, whole + aim)]


CASES = {
    "3.4": Case(
        right=None,
        wrong=[
            (
                lambda rng, n, r: np.sort(rng.permutation(n)[: round(r * n)]),
                "these are the hidden places: the ratio says how many are hidden, return the others",
            ),
            (
                lambda rng, n, r: np.flatnonzero(rng.random(n) >= r),
                "the number of places changes from draw to draw: draw an order and take the first",
            ),
            (
                lambda rng, n, r: np.sort(rng.integers(0, n, n - round(r * n))),
                "a place was drawn twice: draw without replacement",
            ),
            (
                lambda rng, n, r: rng.permutation(n)[: n - round(r * n)],
                "the places are not in order: sort them at the end",
            ),
            (
                lambda rng, n, r: np.arange(n - round(r * n)),
                "every clip has the same mask: draw it with the rng that you are given",
            ),
        ],
        properties=[_visible],
    ),
    "3.5": Case(
        right=np.argsort,
        inputs=lambda: [(np.random.default_rng(3).permutation(12),)],
        wrong=[
            (
                lambda order: order,
                "the same order twice does not undo a shuffle: inverse[order[s]] must be s",
            ),
            (
                lambda order: order[::-1],
                "backwards is not inverse: inverse[order[s]] must be s",
            ),
            (np.sort, "sorting gives 0, 1, 2: ask which slot each token went to, as argsort does"),
        ],
    ),
    "3.6": Case(
        right=decoder_input,
        inputs=lambda: [
            (*_normal(4, (3, 4), (4,), (8, 4)), np.random.default_rng(4).permutation(8))
        ],
        wrong=[
            (
                _before,
                "your positions travel with the tokens: add them after the shuffle, slot by slot",
            ),
            (_still, "nothing is shuffled: slot s takes token order[s]"),
            (_masks_first, "the visible tokens come first, then the mask tokens"),
            (_back, "you shuffle the other way: slot s takes token order[s]"),
        ],
    ),
    "3.7": Case(
        right=cosine_distance,
        inputs=lambda: [tuple(_normal(6, (2, 5, 8), (2, 5, 8)))],
        wrong=[
            (
                lambda s, t: 1 - cosine_distance(s, t),
                "this is the similarity: the distance is one minus it",
            ),
            (
                lambda s, t: ((s - t) ** 2).mean(-1),
                "this is the squared error: it depends on the lengths, the cosine does not",
            ),
            (
                lambda s, t: 1 - (s * t).sum(-1),
                "divide by both lengths: without that a longer vector is a nearer one",
            ),
            (
                lambda s, t: 1 - (s * t).sum(-1) / np.linalg.norm(s) / np.linalg.norm(t),
                "your lengths are those of the whole array: take norms over the last axis",
            ),
        ],
    ),
    "3.8": Case(
        right=stage2_loss,
        inputs=_outputs,
        wrong=[
            (
                _masked_only,
                "you count masked places only: the paper's local loss covers visible ones, too",
            ),
            (
                lambda *a: stage2_loss(*a) / 2,
                "this is the mean of the two losses: the paper adds them, each with weight one",
            ),
            (
                lambda *a: cosine_distance(a[0], a[1]).mean(),
                "the global loss is missing: add the distance of whole and whole_target",
            ),
            (
                lambda *a: cosine_distance(a[3], a[4]).mean(),
                "the local loss is missing: add the mean distance of local and local_target",
            ),
            (_summed, "you add up the tokens of a clip: take their mean"),
        ],
    ),
}

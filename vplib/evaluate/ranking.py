"""Retrieval and choosing among texts: ranks, recall, accuracy and their chance levels, in numpy.

Similarity has a row a query and a column a candidate. Ties count against the model, and so does
what is not a number. Texts that do not exist are left out of both before.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vplib.evaluate.precision import precision_at_hits


def ranks(
    similarity: Float[np.ndarray, "Q M"], right: Bool[np.ndarray, "Q M"]
) -> Int[np.ndarray, " Q"]:
    """Of each query, the rank of the best of its right candidates, 1 the first; M + 1 if it has
    none.

    A wrong candidate as similar ranks before it. Median and mean of these are MedR and MeanR.
    """
    best = np.where(right, similarity, -np.inf).max(1, keepdims=True)
    return 1 + (~(similarity < best) & ~right).sum(1)


def recall_of_any(
    similarity: Float[np.ndarray, "Q M"], right: Bool[np.ndarray, "Q M"], *, k: int
) -> Float[np.ndarray, " Q"]:
    """1 where any right candidate is among the k most similar, else 0.

    Video to text, each video with several captions: `right[v, i]` says that caption i is of video
    v. Text to video, each caption a query: the same transposed, or `metrics.recall_at`. Source:
    m-bain/frozen-in-time (model/metric.py).
    """
    return (ranks(similarity, right) <= k).astype(float)


def recall_chance(right: Bool[np.ndarray, "Q M"], *, k: int) -> float:
    """The mean of `recall_of_any` for candidates in random order, exactly."""
    wrong, candidates = (~right).sum(1, keepdims=True), right.shape[1]
    place = np.arange(min(k, candidates))
    missed = np.maximum(wrong - place, 0) / (candidates - place)  # at each place, if not before
    return float(1 - missed.prod(1).mean())


def action_map(
    similarity: Float[np.ndarray, "A V"], right: Bool[np.ndarray, "A V"]
) -> Float[np.ndarray, " A"]:
    """Of each action text, the mean precision at the videos that show it, in [0, 1]; its mean is
    the text to video mAP of SSv2-Temporal and SSv2-Events. Their R@k is `recall_of_any`.

    Raises ValueError for a text that no video is right for. Source: Hritikbansal/videocon
    (src/calc_ssv2.py).
    """
    if not right.any(1).all():
        text = int(right.any(1).argmin())
        raise ValueError(f"no video is right for action text {text}: leave the text out")
    return precision_at_hits(similarity.T, right.T)


def choice(
    similarity: Float[np.ndarray, "Q M"], answer: Int[np.ndarray, " Q"]
) -> Float[np.ndarray, " Q"]:
    """1 where the answer is more similar than every other option, else 0; -inf marks what is no
    option.

    Multiple choice (NExT-QA ATP-Hard: five texts a question) and, with `within_video`, segments to
    sentences. Raises ValueError for an answer that is none of the options.
    """
    options = similarity != -np.inf
    rows = np.arange(len(answer))
    out = (answer < 0) | (answer >= similarity.shape[1])
    out |= ~options[rows, np.where(out, 0, answer)]
    if out.any():
        query = int(out.argmax())
        raise ValueError(
            f"the answer of query {query} is number {answer[query]}, which is none of its "
            f"{options[query].sum()} options (numbered from 0)"
        )
    own = similarity[rows, answer][:, None]
    return ((~(similarity < own)).sum(1) == 1).astype(float)


def choice_chance(similarity: Float[np.ndarray, "Q M"]) -> float:
    """The mean of `choice` for guesses: that of 1/n over queries with n options."""
    return float((1 / (similarity != -np.inf).sum(1)).mean())


def within_video(
    similarity: Float[np.ndarray, "S S"], video: Shaped[np.ndarray, " S"]
) -> Float[np.ndarray, "S S"]:
    """Of S segments (rows) and their S sentences, what is left to choose from: sentences of the same
    video; -inf elsewhere.

    `choice` of it, with answers 0 to S - 1, is the segment to sentence matching of Charades-STA. A
    video with one sentence is always right, two with the same words are both wrong; report
    `choice_chance`. Source: VideoPrism appendix F.2.
    """
    return np.where(video[:, None] == video[None], similarity, -np.inf)

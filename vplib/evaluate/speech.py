"""What a resampler and a language model say of clips, and how that is scored.

Answers (`tasks.Answers`) hold a score a clip or question: CIDEr-D of a caption, or whether an answer
is the true one; so bootstraps, tables and headline rows are those of every task.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Float16, Int

from vplib.data.spoken import Vocabulary, following
from vplib.evaluate import answers, captioning, tasks
from vplib.evaluate.tasks import Answers, Metric, Task
from vplib.model import decoders, resampler
from vplib.model.resampler import Resampler

STEPS = 32  # tokens at most. Source: VideoPrism appendix G


def _own(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return outputs


def _guess(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(targets.mean())


# Outputs are scores; targets are what guessing scores.
CAPTIONING = Task({"cider": Metric(_own, _guess)}, _own)
ANSWERING = Task({"top1": Metric(_own, _guess)}, _own)


def questions(metas: Sequence[dict]) -> pd.DataFrame:
    """Every question about every clip: `row` of its clip, `question`, `answer` and `kind`, and `more`
    where some have several true answers.

    Raises ValueError for one without words, or an answer without.
    """
    found = [{"row": row, **one} for row, meta in enumerate(metas) for one in meta.get("qa", ())]
    for one in found:
        for key in ("question", "answer"):
            if not str(one.get(key) or "").strip():
                who = metas[one["row"]].get("file_name", one["row"])
                raise ValueError(f"{who} has a question without {key}: give one, or leave it out")
    more = ["more"] if any("more" in one for one in found) else []
    return pd.DataFrame(found, columns=["row", "question", "answer", "kind", *more])


class Speaker(NamedTuple):
    """A language model, its words, and the bridge that a clip takes to it."""

    bridge: Resampler
    lm: decoders.CausalLM
    words: Vocabulary


def said(
    speaker: Speaker,
    tokens: Float16[np.ndarray, "C S E"],
    rows: Int[np.ndarray, " N"],
    prompts: Sequence[str],
    *,
    batch: int = 64,
) -> list[str]:
    """What is said after each prompt about the clip of its row: greedy, at most STEPS tokens, up to
    the next question, where examples of questions made the model go on with one.

    Raises ValueError for a prompt without words, or longer than the context leaves room for.
    """
    bridge, lm, words = speaker
    found = []
    for ids, keep, part in _batches(words, prompts, rows, batch):
        ids = _generate(bridge, lm, tokens[part], ids, keep, stop=words.end)
        found += [answers.first(one) for one in words.words(np.asarray(ids))]
    return found[: len(prompts)]


def ranked(
    speaker: Speaker,
    tokens: Float16[np.ndarray, "C S E"],
    rows: Int[np.ndarray, " N"],
    prompts: Sequence[str],
    candidates: Sequence[str],
    *,
    batch: int = 64,
) -> Float[np.ndarray, "N K"]:
    """Log-likelihoods, in nats, of candidates of one token each as what follows a prompt."""
    bridge, lm, words = speaker
    columns = answers.answer_tokens(candidates, lambda text: following(words, [text])[0])
    found = [
        np.asarray(_next(bridge, lm, tokens[part], ids, keep))[:, columns]
        for ids, keep, part in _batches(words, prompts, rows, batch)
    ]
    return np.concatenate(found)[: len(prompts)]


def _batches(words: Vocabulary, prompts: Sequence[str], rows: Int[np.ndarray, " N"], batch: int):
    """Ids of prompts, all of one shape, and the clips that they are about."""
    pieces = words.pieces(prompts)
    if empty := [number for number, one in enumerate(pieces) if not one]:
        raise ValueError(f"prompt {empty[0]} is empty: give it words")
    length = max(map(len, pieces))
    for begin in range(0, len(pieces), batch):
        some = pieces[begin : begin + batch]
        some += some[-1:] * (batch - len(some))
        ids = np.full((batch, length), words.end, np.int32)
        for row, one in zip(ids, some, strict=True):
            row[: len(one)] = one
        keep = np.arange(length) < np.array(list(map(len, some)))[:, None]
        part = rows[begin : begin + batch]
        yield ids, keep, np.concatenate([part, np.repeat(part[-1:], batch - len(part))])


@partial(jax.jit, static_argnames="stop")
def _generate(bridge, lm, tokens, ids, keep, *, stop):
    prefix = resampler.prompted(bridge, lm, tokens, ids, keep)
    return decoders.generate(lm, *prefix, steps=STEPS, stop=stop)


@jax.jit
def _next(bridge, lm, tokens, ids, keep):
    return decoders.next_log_probabilities(lm, *resampler.prompted(bridge, lm, tokens, ids, keep))


# --- scores --------------------------------------------------------------------------------------


def captioned(found: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Answers:
    """CIDEr-D, 0 to 10 a clip, of what each seed's model says of the clips; words as `ptb_like`
    makes them of both sides.

    Rarity is that of these references, so scores compare only among models on the same clips.
    """
    known = [[captioning.ptb_like(text) for text in of] for of in references]
    outputs = [
        captioning.cider_d([captioning.ptb_like(text) for text in of], known) for of in found
    ]
    return Answers(CAPTIONING, np.stack(outputs), np.zeros(len(known)))


def answered(
    found: Sequence[Sequence[str]], truths: Sequence[str], chance: Sequence[float]
) -> Answers:
    """Whether each seed's answers are the true ones; `chance`: of each question, what guessing with
    its text alone would get."""
    outputs = [answers.exact_match(of, truths) for of in found]
    return Answers(ANSWERING, np.stack(outputs), np.asarray(chance, float))


def by_kind(found: Sequence[str], asked: pd.DataFrame) -> dict[str, Answers]:
    """How answers to a table of questions (`row` of the clip, `kind`, `answer`, `chance`) score: of
    each kind, and of `all` as `by_clip`, the questions of one seed.
    """

    def score(some: pd.DataFrame) -> Answers:
        said = [found[place] for place in asked.index.get_indexer(some.index)]
        return answered([said], [*some["answer"]], [*some["chance"]])

    kinds = {kind: score(some) for kind, some in asked.groupby("kind")}
    return kinds | {"all": by_clip(score(asked), asked["row"].to_numpy())}


def by_clip(of: Answers, clips: Int[np.ndarray, " Q"]) -> Answers:
    """The mean over each clip's questions: questions about one clip are no independent draws, clips
    are. `clips`: which clip each question is about."""
    numbers = np.unique(clips, return_inverse=True)[1]
    counts = np.bincount(numbers)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(numbers, values) / counts

    return Answers(of.task, np.stack([mean(one) for one in of.outputs]), mean(of.targets))


def headline(
    name: str, told: Mapping[str, Answers], *, metric: str = "", ours: str = "stage2"
) -> list[dict]:
    """Rows `<name>_<encoder>_<metric>` and, in points or CIDEr-D, `<name>_<ours>_minus_<other>`."""
    rows, end = [], f"_{metric}" if metric else ""
    for encoder, one in told.items():
        cider = one.task is CAPTIONING
        rows.append(
            tasks.row(f"{name}_{encoder}{end}", one, unit="CIDEr-D" if cider else "fraction")
        )
        if encoder != ours:
            gap = f"{name}_{ours}_minus_{encoder}"
            if cider:
                rows.append(
                    tasks.row(gap, told[ours], one, unit="CIDEr-D", combine=lambda a, b: a - b)
                )
            else:
                rows.append(tasks.difference(gap, told[ours], one))
    return rows

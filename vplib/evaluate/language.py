"""Video-language tasks of frozen embeddings: what joins embeddings and truth, and how it is scored.

Nothing is trained: the `head` of a task is the embeddings of its texts, of unit length as those of
the videos are. `TASKS` go through `tasks.answer` and get intervals and rows as all others. Tasks
with one text a clip, or one vector a class, are in `tasks`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vplib.data.text import Tokenizer
from vplib.evaluate import metrics, ranking, windows
from vplib.evaluate.precision import random_precision
from vplib.evaluate.tasks import LabelError, Metric, Task

# CLIP's prompts for classes of human actions. Source: openai/CLIP, data/prompts.md (Kinetics).
CLIP_PROMPTS = tuple(
    f"a {kind} of {who}{{}}."
    for kind in ("video", "photo", "example", "demonstration")
    for who in (
        "",
        "a person ",
        "a person using ",
        "a person doing ",
        "a person during ",
        "a person performing ",
        "a person practicing ",
    )
)


# --- several captions a clip ---------------------------------------------------------------------


def references(metas: Sequence[dict], *, name: str) -> list[list[str]]:
    """The captions of each clip, as many for one as for another, under `captions_reference` of its
    metadata.

    Raises LabelError if a clip has none, or another number than the first.
    """
    found = [meta.get("captions_reference") for meta in metas]
    for number, (meta, said) in enumerate(zip(metas, found, strict=True)):
        if not isinstance(said, list) or not said or len(said) != len(found[0]):
            has = len(said) if isinstance(said, list) else 0
            wanted = len(found[0]) if number else "one or more"
            raise LabelError(
                f"{name}: clip {number}, {meta['file_name']}, has {has} captions under "
                f"'captions_reference' and {wanted} are needed: give every clip as many as the "
                "first"
            )
    return found


def _texts_to_video(
    texts: Float[np.ndarray, "C N E"], clips: Float[np.ndarray, "C E"]
) -> Float[np.ndarray, "C N C"]:
    """Of each caption of each clip, how similar every clip is."""
    return texts @ clips.T


def _video_to_texts(
    texts: Float[np.ndarray, "C N E"], clips: Float[np.ndarray, "C E"]
) -> Float[np.ndarray, "C C N"]:
    """Of each clip, how similar every caption of every clip is."""
    return np.moveaxis(_texts_to_video(texts, clips), 2, 0)


def _of_captions(
    outputs: Float[np.ndarray, "C N M"], targets: Int[np.ndarray, " C"], *, k: int
) -> Float[np.ndarray, " C"]:
    """Of each clip, the share of its captions that find it: every caption is a query."""
    clips, captions, candidates = outputs.shape
    flat = outputs.reshape(clips * captions, candidates)
    return metrics.recall_at(flat, np.repeat(targets, captions), k=k).reshape(clips, -1).mean(1)


def _own_captions(
    outputs: Float[np.ndarray, "C M N"], targets: Int[np.ndarray, " C"]
) -> tuple[Float[np.ndarray, "C Q"], Bool[np.ndarray, "C Q"]]:
    """Similarities of all captions in one row a clip, and which of them are its own."""
    own = np.arange(outputs.shape[1]) == targets[:, None]
    return outputs.reshape(len(outputs), -1), np.repeat(own, outputs.shape[2], axis=1)


def _any_caption(k: int) -> Metric:
    """A clip is right if any of its captions is among the k most similar."""
    return Metric(
        lambda outputs, targets: ranking.recall_of_any(*_own_captions(outputs, targets), k=k),
        lambda outputs, targets: ranking.recall_chance(_own_captions(outputs, targets)[1], k=k),
    )


# --- long videos and what is said of their parts -------------------------------------------------


class Moments(NamedTuple):
    """Of each video, when its events begin and end (seconds), and the sentence of each."""

    times: list[Float[np.ndarray, "_ 2"]]
    sentences: list[list[str]]


def moments(metas: Sequence[dict | None], *, name: str) -> Moments:
    """The events of videos from the metadata `events`: a list of {start, end, sentence}. None
    stands for a video that cannot be read, as in `features.metadata`.

    Raises LabelError for a video without events, an event that ends before it begins or after the
    video's `duration`, or one without a sentence.
    """
    found = Moments([], [])
    for number, meta in enumerate(metas):
        if meta is None:
            found.times.append(np.empty((0, 2)))
            found.sentences.append([])
            continue
        who, events = f"{name}: video {number}, {meta['file_name']},", meta.get("events")
        if not events:
            raise LabelError(f"{who} has no 'events': add them to its metadata, or leave it out")
        for event in events:
            start, end = event["start"], event["end"]
            if not 0 <= start < end <= meta["duration"] + 1e-6:
                raise LabelError(
                    f"{who} has an event from {start:g} to {end:g} s: it must begin before it ends, "
                    f"within the video's {meta['duration']:g} s; correct 'events'"
                )
            if not str(event.get("sentence") or "").strip():
                raise LabelError(
                    f"{who} has no sentence for its event from {start:g} to {end:g} s: add it, or "
                    "leave the event out"
                )
        found.times.append(np.array([[event["start"], event["end"]] for event in events]))
        found.sentences.append([event["sentence"] for event in events])
    return found


class Parts(NamedTuple):
    """Unit-length embeddings of V videos: one clip of frames of all of it, the mean over its
    windows, and a clip for every event.
    """

    whole: Float[np.ndarray, "V E"]
    windows: Float[np.ndarray, "V E"]
    segments: Shaped[np.ndarray, " V"]  # each n E


def parts(
    encoders: Mapping[str, Callable],
    source: windows.Originals,
    times: Sequence[Float[np.ndarray, "_ 2"]],
    *,
    length: float,
    **reading,
) -> tuple[dict[str, Parts], Int[np.ndarray, " V"]]:
    """Every encoder's embeddings of the videos of `source`, decoded once, and which videos could be
    read.

    Windows of `length` seconds follow each other; `times` (seconds) are those of `moments`.
    `reading` and errors as `windows.features`.
    """

    def cut(number: int, seconds: float) -> Float[np.ndarray, "W 2"]:
        begin = windows.starts(seconds, length, length)
        return np.concatenate(
            [[[0.0, seconds]], times[number], np.stack([begin, begin + length], 1)]
        )

    found = windows.stretches(encoders, source, cut, **reading)
    counts = [len(times[row]) for row in found.rows]
    values = {
        encoder: Parts(
            np.stack([part[0] for part in of]),
            np.stack([_unit(part[1 + n :].mean(0)) for part, n in zip(of, counts, strict=True)]),
            ragged([part[1 : 1 + n] for part, n in zip(of, counts, strict=True)]),
        )
        for encoder, of in found.values.items()
    }
    return values, found.rows


def ragged(parts: Sequence[np.ndarray]) -> Shaped[np.ndarray, " V"]:
    """An array of arrays, of equal shapes or not."""
    found = np.empty(len(parts), object)
    for k, part in enumerate(parts):
        found[k] = part
    return found


def _unit(vector: Float[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
    return vector / np.maximum(np.linalg.norm(vector), 1e-12)


def truncation(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int
) -> tuple[Bool[np.ndarray, " V"], Int[np.ndarray, " V"]]:
    """Of each paragraph (all sentences of a video, joined by spaces): whether a text tower of
    `length` tokens cuts it, and how many of its sentences it reads to the end.

    `tokenizer` must not cut: give it a length that no paragraph has. Of a sentence, the full stop
    may be cut: only the last one has one, by `data.text.canonical`.
    """
    cut, kept = [], []
    for said in sentences:
        tokens = tokenizer([" ".join(said[: k + 1]) for k in range(len(said))])[1].sum(1)
        cut.append(tokens[-1] > length)
        kept.append((tokens - 1 <= length).sum())
    return np.array(cut), np.array(kept)


def _segments(
    sentences: Sequence[Float[np.ndarray, "_ E"]], clips: Shaped[np.ndarray, " V"]
) -> Float[np.ndarray, "V S S"]:
    """Of each segment of each video, how similar the sentences of that video are; -inf where there
    is none.
    """
    most = max(len(part) for part in sentences)
    outputs = np.full((len(sentences), most, most), -np.inf)
    for row, said, shown in zip(outputs, sentences, clips, strict=True):
        row[: len(shown), : len(said)] = shown @ said.T
    return outputs


def _matched(outputs: Float[np.ndarray, "V S S"], targets) -> float:
    """The share of all segments that find their sentence; videos with more count more."""
    there = (outputs != -np.inf).any(2)
    return float(ranking.choice(outputs[there], np.nonzero(there)[1]).mean())


def _matched_by_chance(outputs: Float[np.ndarray, "V S S"], targets) -> float:
    return ranking.choice_chance(outputs[(outputs != -np.inf).any(2)])


# --- choosing among texts, and actions -----------------------------------------------------------


def _actions(
    outputs: Float[np.ndarray, "C K"], targets: Int[np.ndarray, " C"]
) -> tuple[Float[np.ndarray, "A C"], Bool[np.ndarray, "A C"]]:
    """Of each text of an action that any clip shows, how similar the clips are, and which show it.
    Another could not be found: it is left out.
    """
    right = targets == np.arange(outputs.shape[1])[:, None]
    shown = right.any(1)
    return outputs.T[shown], right[shown]


def _action_recall(k: int) -> Metric:
    return Metric(
        lambda o, t: float(ranking.recall_of_any(*_actions(o, t), k=k).mean()),
        lambda o, t: ranking.recall_chance(_actions(o, t)[1], k=k),
    )


CHOICE = Metric(ranking.choice, lambda outputs, targets: ranking.choice_chance(outputs))
ACTION_MAP = Metric(
    lambda o, t: float(ranking.action_map(*_actions(o, t)).mean()),
    lambda o, t: float(random_precision(_actions(o, t)[1].T).mean()),
    basic=True,
)
TASKS = {
    # Several captions a clip (MSRVTT, VATEX): texts (C N E), clips (C E), targets 0 to C - 1.
    "texts_to_video": Task(
        {
            f"r{k}": Metric(partial(_of_captions, k=k), lambda o, t, k=k: min(k / o.shape[-1], 1.0))
            for k in (1, 5)
        },
        _texts_to_video,
    ),
    "video_to_texts": Task({f"r{k}": _any_caption(k) for k in (1, 5)}, _video_to_texts),
    # Charades-STA: of each of V videos n sentences and n segments (n E), targets 0 to V - 1.
    "segments": Task({"top1": Metric(_matched, _matched_by_chance)}, _segments),
    # NExT-QA ATP-Hard: texts (C 5 E), clips (C E), targets which of the texts is right.
    "choice": Task({"top1": CHOICE}, lambda texts, clips: np.einsum("cke,ce->ck", texts, clips)),
    # SSv2-Temporal: one text an action (K E), clips (C E), targets the action of each clip.
    "actions": Task(
        {"map": ACTION_MAP, **{f"r{k}": _action_recall(k) for k in (1, 5)}},
        lambda texts, clips: clips @ texts.T,
    ),
}

"""Behaviour of animals: frames of long videos, boxes with several labels, clips; frozen encoders
beside a specialist that learns everything from the same labels.

A part (train, validation or test) of a data set becomes a `Part` by `framed`, `boxed` or `whole`,
and `asked` trains heads on one, chooses among settings on another, and answers for a third.
Source of forms and metrics: VideoPrism (arXiv:2402.13217), section 4.4 and appendix H.
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped, UInt8
from scipy import special

from vplib import files
from vplib.evaluate import boxes, ceilings, heads, metrics, multilayer, precision, windows
from vplib.evaluate.boxes import BoxProbe
from vplib.evaluate.features import Features
from vplib.evaluate.heads import Probe
from vplib.evaluate.tasks import Answers, LabelError, Metric, Task
from vplib.evaluate.windows import Windows
from vplib.model.encoders import VideoEncoder, pixels
from vplib.model.sizes import Sizes


class Part(NamedTuple):
    """Labelled windows or clips, a row of `values` and a target each, and the truth that answers are
    scored with.
    """

    task: Task
    classes: list[str]  # that heads tell apart; of frames the last one is the background
    values: Mapping[str, np.ndarray]  # of each encoder; videos themselves are one, too
    targets: Int[np.ndarray, " N"] | list[Float[np.ndarray, "_ K"]]  # of each window or clip
    truth: np.ndarray  # as the metrics of `task` take it
    rows: Int[np.ndarray, " N"]  # where in `truth`: of frames, video x its windows + window
    boxes: list[Float[np.ndarray, "_ 4"]] | None = None
    grid: tuple[int, int, int] | None = None  # of the tokens: time, height, width


# --- how long clips are read ---------------------------------------------------------------------


def in_windows(run: Callable, frames: int) -> Callable:
    """An encoder of clips of a multiple of `frames` frames: the mean of the tokens that `run` makes
    of one window of as many after the other.

    So cycles of a second do not vanish between the few frames that an encoder was trained on, and a
    head reads no more tokens than those of a window. Both are our choice.
    """

    def encode(video: UInt8[np.ndarray, "B T S S 3"]) -> np.ndarray:
        clips, count, *frame = video.shape
        tokens = np.asarray(run(video.reshape(-1, frames, *frame)))
        each = tokens.reshape(clips, count // frames, *tokens.shape[1:])
        return each.mean(1, dtype=np.float32).astype(tokens.dtype)

    return encode


def cropped(
    places: Float[np.ndarray, "*A 4"], resolution: int, size: int
) -> Float[np.ndarray, "*A 4"]:
    """Boxes x0, y0, x1, y1, in fractions of a frame of `resolution` pixels a side, in fractions of
    its central crop of `size` pixels (`pipeline.crop`), and clipped to it.
    """
    return np.clip((places * resolution - (resolution - size) // 2) / size, 0, 1)


# --- parts ---------------------------------------------------------------------------------------


def framed(
    found: Windows,
    metas: Sequence[Mapping | None],
    behaviours: Sequence[str],
    *,
    background: str,
    length: float,
    name: str,
) -> Part:
    """Windows of `length` seconds of long videos whose `frame_labels` stand in the metadata: one a
    frame.

    `background` is a class that heads know and no average counts; its frames are negatives of all
    behaviours. The rest as `timed`. Raises LabelError for labels that are missing, unknown, or not
    one a frame.
    """
    classes, shown = [*behaviours, background], []
    for meta in (metas[row] for row in found.rows):
        labels = meta.get("frame_labels") or []
        if len(labels) != meta["frames"]:
            raise LabelError(
                f"{name}: {meta['file_name']} has {meta['frames']} frames and {len(labels)} "
                "frame_labels: give one label a frame, the background's, too"
            )
        shown.append(np.eye(len(classes), dtype=int)[_numbers(labels, classes, name, meta)])
    return timed(found, shown, classes, length=length)


def timed(
    found: Windows,
    shown: Sequence[Int[np.ndarray, "_ K"]],
    classes: Sequence[str],
    *,
    length: float,
) -> Part:
    """Windows of `length` seconds of videos of which `shown` has ones for what each frame shows, of
    `classes`, whose last one is the background; a frame may show several.

    A window learns the label of its centre frame (the later of two), of several the one that is
    rarest here. Every frame is scored by the window whose centre is nearest to it, so the truth says
    for each window of each video (V W K+1) how many of its frames show each behaviour, and last how
    many they are.
    """
    most = max(map(len, found.starts))
    truth, targets, rows = np.zeros((len(shown), most, len(classes)), int), [], []
    rare = np.argsort(sum(one.sum(0) for one in shown), kind="stable")
    for video, each in enumerate(shown):
        starts, end = found.starts[video], found.ends[video]
        own = rare[each[:, rare].argmax(1)]
        times = (np.arange(len(own)) + 0.5) / len(own) * end
        counted = each.copy()
        counted[:, -1] = 1
        np.add.at(truth[video], windows.nearest(starts, length, times), counted)
        targets.append(own[((starts + length / 2) / end * len(own) + 1e-6).astype(int)])
        rows.append(video * most + np.arange(len(starts)))
    values = {of: np.concatenate(parts) for of, parts in found.values.items()}
    return Part(FRAMES, [*classes], values, np.concatenate(targets), truth, np.concatenate(rows))


def boxed(
    found: Features,
    metas: Sequence[Mapping | None],
    classes: Sequence[str],
    *,
    grid: tuple[int, int, int],
    resolution: int,
    size: int,
    most: int,
    name: str,
) -> Part:
    """Clips of which each of `boxes` (one a frame) has some `box_labels`, at most `most` boxes each.

    Boxes are given, in training and in the test, and are those of the middle frame, in the central
    crop of `size` of `resolution` pixels. The truth (C M K+1) has ones for the labels of each box,
    and last for what is a box. `grid` as in `boxes.regions`. Raises LabelError for boxes that are
    missing or outside, and for labels that are missing or unknown.
    """
    places, targets = [], []
    for meta in (metas[row] for row in found.rows):
        given, labels = meta.get("boxes") or [], meta.get("box_labels") or []
        if not given or len(given) != len(labels):
            raise LabelError(
                f"{name}: {meta['file_name']} has {len(given)} boxes and labels of {len(labels)}: "
                "give some labels for each box, and leave clips without boxes out"
            )
        middle = np.array([one[len(one) // 2] for one in given], float)
        places.append(cropped(middle, resolution, size))
        every = np.eye(len(classes))
        targets.append(
            np.stack([every[_numbers(one, classes, name, meta)].sum(0) for one in labels])
        )
    try:
        _, valid = boxes.pad(places, most)
    except ValueError as error:
        raise LabelError(f"{name}: {error}") from None
    truth = boxes.pack(targets, valid).astype(int)
    rows = np.arange(len(places))
    return Part(BOXES, [*classes], found.values, targets, truth, rows, places, grid)


def whole(found: Features, labels: Sequence, classes: Sequence[str], *, name: str) -> Part:
    """Clips of one label each (`tasks.labels`). Raises LabelError for one that is unknown."""
    targets = _numbers([labels[row] for row in found.rows], classes, name)
    return Part(CLIPS, [*classes], found.values, targets, targets, np.arange(len(targets)))


def _numbers(
    labels: Sequence[str], classes: Sequence[str], name: str, meta: Mapping | None = None
) -> Int[np.ndarray, " N"]:
    numbers = {label: k for k, label in enumerate(classes)}
    unknown = [label for label in labels if label not in numbers]
    if unknown:
        where = f" of {meta['file_name']}" if meta else ""
        raise LabelError(
            f"{name}: the label {unknown[0]!r}{where} is none of {', '.join(classes)}: correct it, "
            "or name it among the classes"
        )
    return np.array([numbers[label] for label in labels], int)


def absent(part: Part) -> list[str]:
    """The classes that no frame, box or clip of a part shows: no mean counts these."""
    if part.task is CLIPS:
        return [name for k, name in enumerate(part.classes) if not (part.truth == k).any()]
    shown = part.truth[..., :-1].reshape(-1, part.truth.shape[-1] - 1).any(0)
    return [name for name, there in zip(part.classes, shown, strict=False) if not there]


# --- metrics -------------------------------------------------------------------------------------


def ranks(
    scores: Float[np.ndarray, "V W K"], shown: Shaped[np.ndarray, "V W"]
) -> Int[np.ndarray, "V W K"]:
    """Where each score stands among those of its class, 0 for the best, equal ones alike.

    An average precision depends on nothing else, and from these every draw of a bootstrap counts
    what it needs without sorting. What is not `shown` comes last; the truth counts nothing there.
    """
    found = np.full(scores.shape, 0)
    there = shown > 0
    for k in range(scores.shape[-1]):
        found[there, k] = np.unique(-scores[there, k], return_inverse=True)[1]
    found[~there] = found.max(initial=0)
    return found


def average_precisions(
    ranked: Int[np.ndarray, "V W K"], truth: Int[np.ndarray, "V W K+1"], *, interpolated: bool
) -> Float[np.ndarray, " K"]:
    """Of each class, in [0, 1]; NaN where it has no positives.

    `ranked` are `ranks`, and `truth` says of how many cases, frames or boxes, each of them is: the
    positives of each class, and last all. It is what `precision.average_precision` says of these
    cases, or `interpolated_average_precision`.
    """
    classes, size = ranked.shape[-1], int(ranked.max()) + 1
    at = (ranked + size * np.arange(classes)).ravel()
    positives, cases = truth[..., :-1].ravel(), np.repeat(truth[..., -1].ravel(), classes)
    hits, seen = (
        np.bincount(at, weights, minlength=classes * size).reshape(classes, size)
        for weights in (positives, cases)
    )
    total = hits.sum(1)
    ratio = np.cumsum(hits, 1) / np.maximum(np.cumsum(seen, 1), 1)
    if interpolated:
        ratio = np.maximum.accumulate(ratio[:, ::-1], 1)[:, ::-1]
    return (hits * ratio).sum(1) / np.where(total > 0, total, np.nan)


def _mean(outputs: np.ndarray, truth: np.ndarray, *, interpolated: bool) -> float:
    """Mean over the classes that have positives."""
    found = average_precisions(outputs, truth, interpolated=interpolated)
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) else 0.0


def _prevalence(outputs: np.ndarray, truth: np.ndarray) -> float:
    """The mean average precision of equal scores for all."""
    return _mean(np.zeros_like(outputs), truth, interpolated=False)


def _guess(outputs: np.ndarray, truth: np.ndarray) -> float:
    return 1 / outputs.shape[-1]


# Mean average precision: of frames scikit-learn's, of boxes AVA's, which for given boxes is that of
# the boxes themselves. Classes without positives are left out of every mean: our choice.
FRAMES, BOXES = (
    Task(
        {"map": Metric(partial(_mean, interpolated=of_boxes), _prevalence, basic=True)},
        heads.predict,
    )
    for of_boxes in (False, True)
)
CLIPS = Task(
    {
        "macro": Metric(precision.macro_accuracy, _guess),
        "micro": Metric(metrics.top1, _guess),
    },
    heads.predict,
)


# --- heads and specialists -----------------------------------------------------------------------


def frozen(
    part: Part, encoder: str, *, seed: int, width: int | None = None, **recipe
) -> nnx.Module:
    """A head on the frozen tokens of an encoder, of one layer or several; `recipe` as
    `heads.train_probe`.

    The layer of boxes is as wide as the tokens, whatever `width` says.
    """
    tokens = part.values[encoder]
    if part.boxes is None:
        classes = len(part.classes)
        return multilayer.train(
            tokens, part.targets, classes=classes, seed=seed, width=width, **recipe
        )
    most = part.truth.shape[1]
    return multilayer.train_boxes(
        tokens, part.boxes, part.targets, grid=part.grid, most=most, seed=seed, **recipe
    )


class Specialist(nnx.Module):
    """An encoder of bytes, `in_windows` of `sizes.frames` frames, and a head on its tokens.

    Inputs are videos and, for a head on boxes, `boxes.samples` of these.
    """

    def __init__(self, sizes: Sizes, head: Probe | BoxProbe, *, rngs: nnx.Rngs):
        self.encoder = VideoEncoder(sizes, rngs=rngs)
        self.head, self.frames = head, sizes.frames

    def __call__(self, inputs) -> Float[Array, "B *M K"]:
        video, *samples = inputs if isinstance(inputs, tuple | list) else (inputs,)
        clips, count, *frame = video.shape
        tokens = self.encoder(pixels(video.reshape(-1, self.frames, *frame)))
        tokens = tokens.reshape(clips, count // self.frames, *tokens.shape[1:]).mean(1)
        if not samples:
            return self.head(tokens)
        return self.head(boxes.beside(tokens, *samples))


def specialist(
    part: Part,
    encoder: str,
    *,
    sizes: Sizes,
    heads: int,
    width: int | None = None,
    seed: int,
    **recipe,
) -> Specialist:
    """Encoder and head trained together from random weights on the videos that stand in
    `values[encoder]`, with the targets and the head of `frozen`; `recipe` as `ceilings.for_steps`.
    """
    rngs, classes = nnx.Rngs(seed), len(part.classes)
    plain = np.zeros(sizes.width, np.float32), np.ones(sizes.width, np.float32)
    targets, recipe = part.targets, dict(seed=seed, **recipe)
    if part.boxes is None:
        head = Probe(*plain, heads, classes, inner=width, rngs=rngs)
    else:
        head = BoxProbe(*plain, heads, classes, most=part.truth.shape[1], rngs=rngs)
        targets = part.truth.astype(np.float32)
        recipe["loss"] = boxes.packed_loss
    model = Specialist(sizes, head, rngs=rngs)
    return ceilings.for_steps(model, _videos(part, encoder), targets, **recipe)


def _videos(part: Part, encoder: str):
    videos = part.values[encoder]
    if part.boxes is None:
        return videos
    return videos, *boxes.samples(boxes.pad(part.boxes, part.truth.shape[1])[0], part.grid)


def probabilities(head: nnx.Module, part: Part, encoder: str, *, batch: int = 64) -> np.ndarray:
    """Of each class for each window or clip (N K), or for each place of a box (N M K)."""
    if not isinstance(head, Specialist) and part.boxes is not None:
        said = multilayer.predict_boxes(head, part.values[encoder], part.boxes, grid=part.grid)
        found = np.zeros((*part.truth.shape[:2], len(part.classes)), np.float32)
        found[part.truth[..., -1] > 0] = np.concatenate(said)
        return found
    if isinstance(head, Specialist):
        logits = heads.predict(head, _videos(part, encoder), batch=batch)
    else:
        logits = multilayer.predict(head, part.values[encoder], batch=batch)
    logits = logits.astype(float)  # so that few are equal
    return special.softmax(logits, -1) if part.boxes is None else special.expit(logits)


def outputs(head: nnx.Module, part: Part, encoder: str) -> np.ndarray:
    """What a head says of a part, as the metrics of its task take it."""
    said = probabilities(head, part, encoder)
    if part.task is CLIPS:
        return said
    if part.task is FRAMES:
        behaviours = len(part.classes) - 1
        found = np.zeros((part.truth.shape[0] * part.truth.shape[1], behaviours), said.dtype)
        found[part.rows] = said[:, :behaviours]
        said = found.reshape(*part.truth.shape[:2], behaviours)
    return ranks(said, part.truth[..., -1])


class Asked(NamedTuple):
    """Answers for a test part, `probabilities` of the head of the first seed there, the setting they
    have, and how every setting did on validation.
    """

    answers: Answers
    said: np.ndarray
    setting: Mapping
    tried: list[dict]


def asked(
    fit: Callable,
    train: Part,
    validation: Part | None,
    test: Part,
    *,
    encoders: Sequence[str],
    settings: Sequence[Mapping],
    seeds: Sequence[int],
) -> Asked:
    """Heads of every seed by `fit` (`frozen` or `specialist`), each on the encoder of its turn.

    With several `settings` the first seed tries all, and the best on `validation`, the first of
    equals, is the one that answers for `test`. Raises ValueError if there is nothing to choose on.
    """
    if len(settings) > 1 and validation is None:
        raise ValueError("several settings need a validation part to choose one on: give it")

    def head(seed, encoder, setting):
        return fit(train, encoder, seed=seed, **setting)

    first = [head(seeds[0], encoders[0], setting) for setting in settings]
    tried, best = [], 0
    if len(settings) > 1:
        scores = [_answers(validation, [one], encoders[:1]).scores().mean() for one in first]
        best = int(np.argmax(scores))
        tried = [
            {**setting, "validation": float(score), "chosen": k == best}
            for k, (setting, score) in enumerate(zip(settings, scores, strict=True))
        ]
    others = zip(seeds[1:], encoders[1:], strict=True)
    trained = [first[best], *(head(seed, of, settings[best]) for seed, of in others)]
    said = probabilities(trained[0], test, encoders[0])
    return Asked(_answers(test, trained, encoders), said, settings[best], tried)


def kept(file: Path, identity: str, test: Part, make: Callable[[], Asked]) -> Asked:
    """What `make` finds about `test`, which takes minutes, or what it found when it was last called
    for this `file` with the same `identity`: a digest of all that decides it. A killed process loses
    no more than what it was asking.

    Raises FileError if the file cannot be written.
    """
    if (found := _read(file, identity)) is None:
        found = make()
        told = {"identity": identity, "setting": found.setting, "tried": found.tried}
        files.folder(file.parent)
        with files.replacing(file) as temporary, temporary.open("wb") as place:
            outputs = found.answers.outputs
            np.savez(place, outputs=outputs, said=found.said, told=json.dumps(told))
        return found
    arrays, told = found
    answers = Answers(test.task, arrays["outputs"], test.truth, test.classes)
    return Asked(answers, arrays["said"], told["setting"], told["tried"])


def _read(file: Path, identity: str) -> tuple[Mapping[str, np.ndarray], dict] | None:
    """The arrays of a file that `kept` wrote, and what it says beside; None for any other."""
    try:
        with np.load(file) as arrays:
            told = json.loads(str(arrays["told"]))
            if told["identity"] == identity:
                return {name: arrays[name] for name in ("outputs", "said")}, told
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none, or damaged
    return None


def _answers(part: Part, trained: Sequence, encoders: Sequence[str]) -> Answers:
    said = [outputs(head, part, of) for head, of in zip(trained, encoders, strict=True)]
    return Answers(part.task, np.stack(said), part.truth, part.classes)

"""Localisation on frozen features: when events happen, and which box shows what, with their scores.

Temporal: windows of long videos -> G-TAD's maps -> proposals -> soft-NMS -> classes. Spatio-temporal:
the boxes of a key frame -> the classes of each. Detections are matched with the truth once, and
drawn by video: `Judged.answers` is what `tasks` makes rows, intervals and differences of.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from vplib.data import video
from vplib.evaluate import (
    boxes,
    detection,
    features,
    gtad,
    heads,
    multilayer,
    proposals,
    windows,
)
from vplib.evaluate.detection import Matches
from vplib.evaluate.features import Originals
from vplib.evaluate.tasks import Answers, LabelError, Metric, Task

# The person detectors whose boxes are read, by their least score: SlowFast's of AVA, CenterNet of
# AVA-Kinetics. Source: VideoGLUE's code, SlowFast's configurations.
LEAST_SCORE = {"ava": 0.8, "ava_kinetics": 0.2}


class Judged(NamedTuple):
    """What R heads found in V videos, matched with the truth."""

    answers: Answers  # R V: one "clip" a video
    matches: list[Matches]  # of each head
    found: list[Any]  # of each head, as it was matched


def _judged(metrics: Mapping[str, tuple], videos: int, found: Sequence) -> Judged:
    """`metrics`: name -> measure, what it measures of each head, whether `Metric.basic`.

    An answer is the number of the head and of the video, since matching is done. Nothing is known
    of chance: the prior takes its place.
    """

    def metric(measure: Callable, matched: Sequence, basic: bool) -> Metric:
        def score(outputs, _):
            return measure(matched[outputs[0, 0]], outputs[:, 1])

        return Metric(score, lambda *_: float("nan"), basic)

    task = Task({name: metric(*of) for name, of in metrics.items()}, predict=heads.predict)
    outputs = np.stack(np.indices((len(found), videos)), -1)
    answers = Answers(task, outputs, np.arange(videos))
    return Judged(answers, list(next(iter(metrics.values()))[1]), list(found))


# --- when: events of untrimmed videos --------------------------------------------------------------

Event = tuple[float, float, str]  # start and end in seconds, label


class Untrimmed(NamedTuple):
    """The videos that could be read: for each encoder a row a window, and all that happens."""

    names: list[str]
    values: dict[str, list[Float[np.ndarray, "W ..."]]]
    seconds: Float[np.ndarray, " V"]
    events: list[list[Event]]
    centres: list[Float[np.ndarray, " W"]]  # of the windows, in seconds

    @property
    def segments(self) -> list[Float[np.ndarray, "_ 2"]]:
        """Start and end of the events, in fractions of their video."""
        return [
            np.array([event[:2] for event in events], float).reshape(-1, 2) / seconds
            for events, seconds in zip(self.events, self.seconds, strict=True)
        ]


def events_of(meta: dict, *, name: str) -> list[Event]:
    """The `events` of a video of corpus `name`: dictionaries with `label`, `start` and `end`.

    Raises LabelError for a video without such a list, and for an event without a label, or that
    does not end after it begins.
    """
    what, rows = f"{name}: {meta['file_name']}", meta.get("events")
    if not isinstance(rows, list):
        raise LabelError(f"{what} has no list of events; add one to its metadata, or an empty one.")
    for number, row in enumerate(rows):
        if not {"label", "start", "end"} <= {*row} or not 0 <= row["start"] < row["end"]:
            raise LabelError(
                f"{what}: event {number}, {row}, has no label, start (0 s or later) and end (after "
                "the start); correct it."
            )
    return [(float(row["start"]), float(row["end"]), row["label"]) for row in rows]


def untrimmed(
    encoders: Mapping[str, Callable],
    source: Originals,
    *,
    name: str,
    window: float,
    stride: float,
    **reading,
) -> Untrimmed:
    """The windows of every video of `source` and its `events_of`, which are checked first.

    `window` and `stride` in seconds; `reading` as `windows.features`. Raises LabelError, also for
    an event that begins after its video has ended, and what is raised there.
    """
    known = features.metadata(source)
    events = [None if meta is None else events_of(meta, name=name) for meta in known]
    found = windows.features(encoders, source, name=name, length=window, stride=stride, **reading)
    names = [known[row]["file_name"] for row in found.rows]
    there = [events[row] for row in found.rows]
    for which, seconds, of_video in zip(names, found.ends, there, strict=True):
        for start, _, label in of_video:
            if start >= seconds:
                raise LabelError(
                    f"{name}: {which} lasts {seconds:g} s and its event {label!r} begins at "
                    f"{start:g} s; correct its times."
                )
    centres = [begin + window / 2 for begin in found.starts]
    return Untrimmed(names, found.values, found.ends, there, centres)


def windowed(
    tokens: Callable | Sequence[Callable], classifier: Answers, classes: Sequence[str]
) -> Callable | list[Callable]:
    """An encoder for `untrimmed`, or several that take turns: the mean of a window's tokens (D),
    then the probabilities of `classes` (K) by the probes that answered `classifier`.

    Source: VideoGLUE 3.3.1 (the mean). Probabilities of a video are not published: G-TAD and OpenTAD
    take an external classifier's. Ours is the probe of another task on the same frozen encoder,
    averaged over windows and seeds, because few videos teach no classes (LOG.md).
    Raises ValueError if a class is none of those.
    """
    if unknown := set(classes) - set(classifier.classes):
        raise ValueError(
            f"the probe knows no class {min(unknown)!r}, only {', '.join(classifier.classes)}"
        )

    def encoder(tokens: Callable, probes: Answers) -> Callable:
        def run(clips):
            found = np.asarray(tokens(clips))
            mean = found.mean(1, dtype=np.float32)
            return np.concatenate([mean, _likely(probes, found, classes)], 1)

        return run

    if callable(tokens):
        return encoder(tokens, classifier)
    turns = len(tokens)
    return [
        encoder(one, replace(classifier, heads=classifier.heads[k::turns]))
        for k, one in enumerate(tokens)
    ]


def _likely(known: Answers, tokens: np.ndarray, classes: Sequence[str]) -> Float[np.ndarray, "W K"]:
    """The probabilities of `classes` in each window, by all heads of a probe."""
    kept = [list(known.classes).index(name) for name in classes]
    each = [
        special.softmax(known.task.predict(head, tokens)[:, kept], axis=1) for head in known.heads
    ]
    return np.mean(each, 0, dtype=np.float32)


def attended(
    train: Untrimmed,
    test: Untrimmed,
    known: Mapping[str, Answers],
    classes: Sequence[str],
    *,
    seeds: Sequence[int],
    **recipe,
) -> tuple[Untrimmed, Untrimmed, dict[str, list[str]]]:
    """Both parts as `temporal` takes them, and its `of_seed`, from windows under "layers", the tokens
    of `multilayer.layers_of`: `map` is `windowed` of the last layer, `mlap` the query that has
    looked at all layers, of a head that learned in which training windows anything happens.

    Probabilities of the classes are those of `known`, of the same names: heads on the last layer
    and on all. How the pooler learns for events is not published; this is our choice. `recipe` as
    `multilayer.train`.
    """
    shown = [
        [any(start <= at < end for start, end, _ in events) for at in centres]
        for events, centres in zip(train.events, train.centres, strict=True)
    ]
    tokens, busy = np.concatenate(train.values["layers"]), np.concatenate(shown).astype(int)
    poolers = [multilayer.train(tokens, busy, classes=2, seed=seed, **recipe) for seed in seeds]
    parts, of_seed = [], {"map": ["map"] * len(poolers)}
    of_seed["mlap"] = [f"mlap {seed}" for seed in seeds]
    for part in (train, test):
        values = {"map": []} | {key: [] for key in of_seed["mlap"]}
        for layers in part.values["layers"]:
            last = windowed(lambda x: x[:, -1], known["map"], classes)(layers)
            values["map"].append(last)
            likely = _likely(known["mlap"], layers, classes)
            for key, pooler in zip(of_seed["mlap"], poolers, strict=True):
                pooled = multilayer.pooled(pooler, layers)
                values[key].append(np.concatenate([pooled, likely], 1))
        parts.append(part._replace(values=values))
    return *parts, of_seed


def temporal(
    train: Untrimmed,
    test: Untrimmed,
    of_seed: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    *,
    seeds: Sequence[int],
    positions: int,
    **recipe,
) -> dict[str, Judged]:
    """Events of `test` by a G-TAD of each encoder and seed trained on `train`, and by the `prior`:
    what the training events say of any video, without looking at it.

    Videos hold what `windowed` made, for the names that `of_seed` has for each seed (`tasks.turns`).
    Metrics: `map`, ActivityNet's mean mAP; `map_agnostic`, the same with all classes as one; `ar100`.
    `found` has rows (start, end, label, score) of each video, in seconds. `recipe` as `gtad.train`.
    Raises LabelError for an event of none of `classes`.
    """
    for of_video in (*train.events, *test.events):
        if unknown := {label for *_, label in of_video} - set(classes):
            raise LabelError(
                f"there is an event {min(unknown)!r}, which is none of the {len(classes)} classes "
                f"({', '.join(classes)}); correct its label."
            )
    cut = -len(classes)
    judged = {}
    for name, keys in of_seed.items():
        found = []
        for seed, key in zip(seeds, keys, strict=True):
            seen, unseen = train.values[key], test.values[key]
            head = gtad.train(
                [one[:, :cut] for one in seen],
                train.segments,
                positions=positions,
                seed=seed,
                **recipe,
            )
            maps = gtad.predict(head, [one[:, :cut] for one in unseen])
            each = [proposals.proposals(*of_video) for of_video in zip(*maps, strict=True)]
            likely = [one[:, cut:].mean(0) for one in unseen]
            found.append((each, likely))
        judged[name] = _judged_events(test, classes, found)
    labels = [label for of_video in train.events for *_, label in of_video]
    shares = np.array([labels.count(one) / len(labels) for one in classes])
    guess = proposals.prior(train.segments, positions)
    blind = [guess] * len(test.names), [shares] * len(test.names)
    return judged | {"prior": _judged_events(test, classes, [blind] * len(seeds))}


def _judged_events(test: Untrimmed, classes: Sequence[str], found: Sequence[tuple]) -> Judged:
    """`found` of each head: proposals and scores of each video, and its classes' probabilities."""
    truth = dict(zip(test.names, test.events, strict=True))
    agnostic = {video: [(a, b, "event") for a, b, _ in of] for video, of in truth.items()}
    rows, matches, aside, recalled = [], [], [], []
    for each, likely in found:
        named, plain = {}, {}
        for one in zip(test.names, test.seconds, each, likely, strict=True):
            video, seconds, (segments, scores), probabilities = one
            best, score = detection.soft_nms(segments, scores)
            best = best * seconds
            named[video] = proposals.classified(best, score, probabilities, classes)
            plain[video] = [(*where, "event", s) for where, s in zip(best, score, strict=True)]
        rows.append(named)
        look = dict(videos=test.names)
        matches.append(detection.match_segments(truth, named, classes=classes, **look))
        aside.append(detection.match_segments(agnostic, plain, **look))
        recalled.append(detection.match_proposals(truth, plain, **look))
    metrics = {
        "map": (detection.mean_average_precision, matches, True),
        "map_agnostic": (detection.mean_average_precision, aside, True),
        "ar100": (detection.average_recall, recalled, False),
    }
    return _judged(metrics, len(test.names), rows)


# --- where: boxes of key frames ------------------------------------------------------------------


class KeyFrames(NamedTuple):
    """The clips that could be read: tokens of each encoder, and the boxes of the middle frame."""

    names: list[str]
    values: dict[str, Float[np.ndarray, "C S D"]]
    boxes: list[Float[np.ndarray, "_ 4"]]
    labels: list[list[str]]  # of each box


def boxes_of(
    meta: dict, *, name: str, frames: int, size: int, resolution: int
) -> tuple[Float[np.ndarray, "_ 4"], list[str]]:
    """The boxes of a clip's key frame and the motion of each, from its `objects`: dictionaries with
    `motion` and, for every frame, `boxes` (x0, y0, x1, y1 in fractions of the frame).

    The key frame is the middle one of the `frames` that an encoder sees. Boxes are those of the
    central square of `size` of `resolution` pixels (`pipeline.read_clip`), clipped to it; what is
    not in it is left out. Frames are square. Raises LabelError for a clip without objects, or an
    object without a motion or with no box within the frame.
    """
    what = f"{name}: {meta['file_name']}"
    objects = meta.get("objects")
    if not isinstance(objects, list):
        raise LabelError(f"{what} has no list of objects with boxes; add one to its metadata.")
    times = np.arange(meta["frames"]) / meta["fps"]
    moment = int(video.uniform_indices(times, frames)[frames // 2])
    found, labels = [], []
    for number, thing in enumerate(objects):
        places = thing.get("boxes") or []
        place = np.array(places[moment] if moment < len(places) else [], float)
        fits = place.shape == (4,) and (place >= 0).all() and (place <= 1).all()
        if not fits or not (place[2:] > place[:2]).all() or not thing.get("motion"):
            raise LabelError(
                f"{what}: object {number} has no motion, or in frame {moment} no box x0, y0, x1, y1 "
                f"within the frame ({place.tolist()}); correct it."
            )
        square = np.clip((place - 0.5) * resolution / size + 0.5, 0, 1)
        if (square[2:] > square[:2]).all():
            found.append(square)
            labels.append(thing["motion"])
    return np.array(found).reshape(-1, 4), labels


def key_frames(
    encoders: Mapping[str, Callable],
    source: Originals,
    *,
    name: str,
    frames: int,
    size: int,
    resolution: int,
    **reading,
) -> KeyFrames:
    """Tokens of every clip of `source` and its `boxes_of`, which are checked first; `reading` as
    `features.features`. Raises LabelError, and what is raised there.
    """
    view = dict(frames=frames, size=size, resolution=resolution)
    known = features.metadata(source)
    there = [None if meta is None else boxes_of(meta, name=name, **view) for meta in known]
    found = features.features(encoders, source, name=name, **view, **reading)
    names = [known[row]["file_name"] for row in found.rows]
    places, labels = zip(*(there[row] for row in found.rows), strict=True)
    return KeyFrames(names, found.values, [*places], [*labels])


MISSED, OFF, FALSE = 0.1, 0.05, 1.0  # share of objects; deviation, in sides; boxes a frame


def detected(
    places: Sequence[Float[np.ndarray, "_ 4"]], *, seed: int = 0
) -> list[tuple[Float[np.ndarray, "_ 4"], Float[np.ndarray, " _"]]]:
    """Boxes and scores as a detector that knows no classes might give them: a stand-in, made of the
    truth, for the person detectors that VideoGLUE's boxes come from.

    A share MISSED of the objects is not found, the others OFF by a part of their size; to each frame
    come FALSE boxes on average, which are those of other frames. Scores of most true boxes are above
    0.8, of most false ones below. All numbers are our choice.
    """
    rng, found = np.random.default_rng(seed), []
    pool = np.concatenate(places)
    for own in places:
        own = own[rng.random(len(own)) >= MISSED]
        sides = np.tile(own[:, 2:] - own[:, :2], 2)
        moved = np.clip(own + OFF * sides * rng.normal(size=own.shape), 0, 1)
        false = pool[rng.integers(len(pool), size=rng.poisson(FALSE))]
        scores = np.append(rng.beta(12, 1, len(moved)), rng.beta(1, 2, len(false)))
        every = np.concatenate([moved, false])
        fits = (every[:, 2:] > every[:, :2]).all(1)
        found.append((every[fits], scores[fits]))
    return found


def spatiotemporal(
    train: KeyFrames,
    test: KeyFrames,
    of_seed: Mapping[str, Sequence[str]],
    *,
    seeds: Sequence[int],
    most: int,
    **recipe,
) -> dict[str, dict[str, Judged]]:
    """Classes of the boxes of `test`, by a head of each encoder and seed trained on the true boxes
    of `train`, and by the `prior`: the classes' shares of the training boxes.

    First by whose boxes: `true`, or those `detected` with at least the score that AVA's or
    AVA-Kinetics' form asks for (LEAST_SCORE; both have one key frame a video here, as
    AVA-Kinetics); then by encoder. The `most` best boxes of a frame are read. The metric, `map`, is
    AVA's frame mAP at IoU .5; a detection's score is the class's probability times the box's.
    `found` has the rows of `detection.match_boxes`, whose second is the number of the key frame in
    its video. A box may have several labels, a tuple. `of_seed` as in `temporal`, `recipe` as
    `boxes.train`.
    """
    every = [several(one) for labels in train.labels for one in labels]
    classes = sorted({label for labels in every for label in labels})
    use = [number for number, places in enumerate(train.boxes) if len(places)]
    shown = [train.boxes[number] for number in use]
    targets = [
        np.array(
            [[name in several(one) for name in classes] for one in train.labels[number]], np.float32
        )
        for number in use
    ]
    forms = {"true": [(places, np.ones(len(places))) for places in test.boxes]}
    guessed = detected(test.boxes)
    for form, least in LEAST_SCORE.items():
        forms[form] = [_best(*one, least=least, most=most) for one in guessed]
    found = {form: {name: [] for name in (*of_seed, "prior")} for form in forms}
    for name, keys in of_seed.items():
        for seed, key in zip(seeds, keys, strict=True):
            tokens = train.values[key]
            head = multilayer.train_boxes(
                tokens[use], shown, targets, most=most, seed=seed, **recipe
            )
            for form, given in forms.items():
                places = [one for one, _ in given]
                own = multilayer.predict_boxes(head, test.values[key], places, grid=recipe["grid"])
                found[form][name].append(own)
    shares = boxes.prior(targets)
    for form, given in forms.items():
        blind = [np.tile(shares, (len(places), 1)) for places, _ in given]
        found[form]["prior"] = [blind] * len(seeds)
    return {
        form: {name: _judged_boxes(test, given, classes, own) for name, own in found[form].items()}
        for form, given in forms.items()
    }


def several(labels: str | tuple[str, ...]) -> tuple[str, ...]:
    """The labels of a box, which may be one."""
    return (labels,) if isinstance(labels, str) else labels


def _best(places: np.ndarray, scores: np.ndarray, *, least: float, most: int) -> tuple:
    order = np.argsort(-scores, kind="stable")[:most]
    order = order[scores[order] >= least]
    return places[order], scores[order]


def _judged_boxes(
    test: KeyFrames, given: Sequence[tuple], classes: Sequence[str], found: Sequence[Sequence]
) -> Judged:
    """`given` boxes and scores of each frame; `found` of each head: the classes' probabilities."""
    films = list(dict.fromkeys(test.names))
    seen, frames = Counter(), []
    for name in test.names:
        frames.append((name, seen[name]))
        seen[name] += 1
    truth: list[tuple] = [*frames]
    for frame, places, labels in zip(frames, test.boxes, test.labels, strict=True):
        pairs = zip(places, labels, strict=True)
        truth += [(*frame, *place, label) for place, each in pairs for label in several(each)]
    rows = [
        [
            (*frame, *place, label, float(score * probability))
            for frame, (places, scores), likely in zip(frames, given, own, strict=True)
            for place, score, each in zip(places, scores, likely, strict=True)
            for label, probability in zip(classes, each, strict=True)
        ]
        for own in found
    ]
    match = partial(detection.match_boxes, truth, classes=classes, videos=films)
    matches = [match(own) for own in rows]
    metrics = {"map": (detection.mean_average_precision, matches, True)}
    return _judged(metrics, len(films), rows)

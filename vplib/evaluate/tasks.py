"""Evaluation tasks: what is asked of clips, how frozen features answer it, how that is scored.

A task says how labels become targets, how a head is trained, what it outputs and by which metrics
that is judged; `TASKS` names them for `data.tasks.<name>.kind`. Seeds, intervals, tables and
headline rows are the same for all, below.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import optax
import pandas as pd
from scipy import special

from vplib.evaluate import metrics, multilayer, precision
from vplib.evaluate.cache import Rows
from vplib.evaluate.features import Features, Originals, features, metadata
from vplib.progress import Progress


class LabelError(ValueError):
    """Labels that nothing can be learned from. One sentence: whose, what is wrong, what to do."""


class Metric(NamedTuple):
    """Functions of (outputs, targets): the score of each clip, or one of all where it is no mean;
    what guessing gets.

    `basic`: its interval is the basic one of the bootstrap, (2 value - high, 2 value - low). A clip
    that is drawn twice is ranked twice at the same place, which raises average precision, so the
    values of draws, and with them a percentile interval, sit too high for few clips.
    """

    score: Callable
    chance: Callable
    basic: bool = False


@dataclass(frozen=True)
class Task:
    """One kind of question. The first metric is the one that differences are taken of.

    `targets(labels, classes)`: which clips can be used, and the target of each. `train(features,
    targets, *, classes, seed, **recipe)`: a head; None where it is not trained but given.
    `predict(head, features)`: an output a clip, of which `probabilities` makes what several views
    of a clip are averaged in.
    """

    metrics: Mapping[str, Metric]
    predict: Callable
    targets: Callable | None = None
    train: Callable | None = None
    probabilities: Callable | None = None


@dataclass(frozen=True)
class Answers:
    """What R heads say of the C test clips that can be scored, and the truth.

    `heads` are those that were trained for it, and `rows` says which of all test clips those are.
    """

    task: Task
    outputs: np.ndarray  # R C ...
    targets: np.ndarray  # C ...
    classes: Sequence[str] = ()
    heads: Sequence = ()
    rows: np.ndarray | None = None  # C
    _bootstrapped: dict[str, np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def metric(self) -> str:
        """The first metric of the task."""
        return next(iter(self.task.metrics))

    @property
    def guesses(self) -> np.ndarray:
        """The class with the largest output (R, C)."""
        return self.outputs.argmax(2)

    def scores(self, metric: str | None = None) -> np.ndarray:
        """(R, C) of a metric that is a mean over clips, (R,) of another; the first metric unless
        given.
        """
        score = self.task.metrics[metric or self.metric].score
        return np.stack([score(outputs, self.targets) for outputs in self.outputs])

    def drawn(self, repeats: np.ndarray, clips: np.ndarray) -> "Answers":
        """Those of the repeats and clips of these numbers."""
        return Answers(
            self.task, self.outputs[repeats][:, clips], self.targets[clips], self.classes
        )

    def bootstrapped(self, metric: str | None = None) -> np.ndarray:
        """The metric of every draw of `metrics.bootstrap`, for metrics that are no mean over clips;
        kept, because a table, headline rows and differences all ask for it.
        """
        name = metric or self.metric
        if name not in self._bootstrapped:
            self._bootstrapped[name] = metrics.bootstrap(
                lambda repeats, clips: self.drawn(repeats, clips).scores(name).mean(),
                *self.outputs.shape[:2],
            )
        return self._bootstrapped[name]

    def chance(self, metric: str | None = None) -> float:
        """The metric's value for guesses that know nothing."""
        chance = self.task.metrics[metric or self.metric].chance
        return float(chance(self.outputs[0], self.targets))


# --- the tasks -----------------------------------------------------------------------------------


def class_numbers(labels: Sequence, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which clips are of one of `classes`, and the number of each one's class (-1: none).

    Raises LabelError for a clip with several labels.
    """
    for number, label in enumerate(labels):
        if isinstance(label, list):
            raise LabelError(
                f"clip {number} has a list of labels ({', '.join(label)}) and a classification "
                "needs one; name another label in data.tasks."
            )
    numbers = {name: number for number, name in enumerate(classes)}
    targets = np.array([numbers.get(label, -1) for label in labels], dtype=int)
    return targets >= 0, targets


def class_sets(labels: Sequence, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which clips have any of `classes`, and 1 for those that each one has, else 0.

    A label that is none of `classes` is ignored. Clips without any are no negatives, they are left
    out: the rule of Charades (`precision.charades_map`).
    """
    own = [[label] if isinstance(label, str) else label or [] for label in labels]
    targets = np.array([[name in of for name in classes] for of in own], np.float32)
    targets = targets.reshape(len(own), len(classes))
    return targets.any(1), targets


def _share(k: int) -> Callable:
    """The chance that one of k different guesses is right."""
    return lambda outputs, targets: min(k / outputs.shape[-1], 1.0)


TOP1 = {"top1": Metric(metrics.top1, _share(1))}
MAP = {  # of several classes a clip
    "map": Metric(
        partial(precision.charades_map, skip_absent=True),
        lambda outputs, targets: np.nanmean(precision.random_precision(targets)),
        basic=True,
    )
}
RECALL = {f"r{k}": Metric(partial(metrics.recall_at, k=k), _share(k)) for k in (1, 5)}
TASKS = {
    "classification": Task(
        TOP1, multilayer.predict, class_numbers, multilayer.train, partial(special.softmax, axis=-1)
    ),
    "multilabel": Task(
        MAP,
        multilayer.predict,
        class_sets,
        partial(multilayer.train, loss=optax.sigmoid_binary_cross_entropy),
        special.expit,
    ),
    # Of clips and texts in one space. The head is one vector a class, or the text of each clip.
    "zero_shot": Task(TOP1, lambda names, clips: clips @ names.T, class_numbers),
    "text_to_video": Task(RECALL, lambda texts, clips: texts @ clips.T),
    "video_to_text": Task(RECALL, lambda texts, clips: (texts @ clips.T).T),
}


# --- labels: all are checked before the first clip is encoded ------------------------------------


def labels(metas: Sequence[dict | None], key: str, *, name: str) -> list:
    """The label, or the list of labels, of each clip of corpus `name` at a dotted `key` of its
    metadata.

    Labels that differ only in spaces are one. None stands for a clip that cannot be read, as in
    `features.metadata`. Raises LabelError if a label is missing or blank.
    """
    found = [None if meta is None else _label(meta, key) for meta in metas]
    bad = [i for i, label in enumerate(found) if label == ""]
    if bad:
        raise LabelError(
            f"{name}: {len(bad)} of {len(metas)} clips have no label or a blank one under {key!r} "
            f"(first: clip {bad[0]}, {metas[bad[0]]['file_name']}); add them to the metadata, and "
            "prepare the corpus again if it is in shards, or set data.tasks and data.zero_shot to "
            "what is labelled."
        )
    return found


def _label(meta: dict, key: str) -> str | list[str]:
    value = meta
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, list):
        return [one for one in map(_word, value) if one]
    return _word(value)


def _word(value: object) -> str:
    """As text with single spaces; empty for what is no label."""
    plain = value is not None and not isinstance(value, dict | list)
    return " ".join(unicodedata.normalize("NFC", str(value)).split()) if plain else ""


def classes_of(labels: Iterable, *, name: str) -> list[str]:
    """The sorted classes of a corpus' labels. Raises LabelError for fewer than two."""
    known = [label for label in labels if label is not None]
    found = sorted(
        {one for label in known for one in ([label] if isinstance(label, str) else label)}
    )
    if len(found) < 2:
        raise LabelError(
            f"{name}: all {len(known)} clips are of one class, {''.join(found)!r}, so there is "
            "nothing to tell apart; add clips of another class, or name another label in "
            "data.tasks."
        )
    return found


class Split(NamedTuple):
    """The classes of the training clips; which clips of either part can be used, and their
    targets.
    """

    classes: list[str]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def split(task: Task, train: Sequence, test: Sequence, names: tuple[str, str]) -> Split:
    """Targets of both parts from their labels. Test clips of classes without training clips cannot
    be scored.

    Raises LabelError for one class only, or if no test clip is of a class that is trained.
    """
    classes = classes_of(train, name=names[0])
    parts = [task.targets(labels, classes) for labels in (train, test)]
    if not parts[1][0].any():
        raise LabelError(
            f"{names[1]}: no clip is of a class that {names[0]} has ({', '.join(classes[:5])}); "
            "label both alike."
        )
    return Split(classes, *parts)


class Part(NamedTuple):
    """Features of each encoder and targets of the clips of a corpus that can be used, and which
    clips those are.
    """

    values: dict[str, np.ndarray | Rows]
    targets: np.ndarray
    rows: np.ndarray


def usable(
    task: Task, labels: Sequence[Sequence], found: Sequence[Features], names: tuple[str, str]
) -> tuple[list[str], Part, Part]:
    """The classes and the two parts that `split` makes of the clips that were read."""
    read = [[of[row] for row in part.rows] for of, part in zip(labels, found, strict=True)]
    classes, *sides = split(task, *read, names)
    parts = []
    for (use, targets), part in zip(sides, found, strict=True):
        values = part.values  # copied only where something is left out: they may be many gigabytes
        if not use.all():
            values = {encoder: of[use] for encoder, of in values.items()}
        parts.append(Part(values, targets[use], part.rows[use]))
    return classes, *parts


# --- heads and answers ---------------------------------------------------------------------------


def turns(
    encoders: Mapping[str, Callable | Sequence[Callable]], seeds: Sequence[int]
) -> tuple[dict[str, Callable], dict[str, list[str]]]:
    """All encoders under names of their own, and the one that each seed's head is trained on: of
    several under one name (random weights, drawn several times) the heads take turns.
    """
    found, of_seed = {}, {}
    for name, one in encoders.items():
        several = {name: one} if callable(one) else {f"{name} {k}": f for k, f in enumerate(one)}
        found |= several
        of_seed[name] = [[*several][k % len(several)] for k in range(len(seeds))]
    return found, of_seed


def probe(
    wanted: Mapping[str, Mapping],
    sources: Mapping[str, Originals],
    encoders: Mapping[str, Callable | Sequence[Callable]],
    *,
    reading: Mapping,
    seeds: Sequence[int],
    **recipe,
) -> dict[tuple[str, str], Answers]:
    """The answers of every (encoder, task): one head a seed is trained on the frozen features, with
    several encoders under one name as in `turns`.

    `wanted` is `data.tasks`: name -> {train, test, label} and, unless it is a classification,
    `kind`; `sources` are the corpora of these names. Videos are read once for all encoders and
    tasks of the same corpora. `reading` as `features`, `recipe` as the task's `train`. Raises
    LabelError before anything is encoded.
    """
    tasks = {name: _kind(name, where) for name, where in wanted.items()}
    parts = {name: (where["train"], where["test"]) for name, where in wanted.items()}
    metas = {part: metadata(source) for part, source in sources.items()}
    known = {
        name: [labels(metas[part], where["label"], name=part) for part in parts[name]]
        for name, where in wanted.items()
    }
    for name, pair in parts.items():
        split(tasks[name], *known[name], pair)
    (every, of_seed), answers = turns(encoders, seeds), {}
    for pair in dict.fromkeys(parts.values()):
        found = [features(every, sources[part], name=part, **reading) for part in pair]
        here, done = [name for name in wanted if parts[name] == pair], 0
        with Progress(len(here) * len(encoders), "probes") as progress:
            for name in here:
                classes, train, test = usable(tasks[name], known[name], found, pair)
                for encoder, keys in of_seed.items():
                    trained, outputs = [], []
                    for seed, key in zip(seeds, keys, strict=True):
                        head = tasks[name].train(
                            train.values[key],
                            train.targets,
                            classes=len(classes),
                            seed=seed,
                            **recipe,
                        )
                        trained.append(head)
                        outputs.append(tasks[name].predict(head, test.values[key]))
                    answers[encoder, name] = Answers(
                        tasks[name], np.stack(outputs), test.targets, classes, trained, test.rows
                    )
                    done += 1
                    progress.update(done)
    return {(encoder, name): answers[encoder, name] for encoder in encoders for name in wanted}


def _kind(name: str, where: Mapping) -> Task:
    kind = where.get("kind", "classification")
    known = [name for name, task in TASKS.items() if task.train is not None]
    if kind not in known:
        raise LabelError(
            f"data.tasks.{name} is of kind {kind!r}, which is none that heads are trained for: "
            f"choose one of {', '.join(known)}."
        )
    return TASKS[kind]


def answer(
    task: Task,
    trained: Iterable,
    features: np.ndarray | Rows,
    targets: np.ndarray,
    classes: Sequence[str] = (),
) -> Answers:
    """What each head says of the test clips."""
    outputs = np.stack([task.predict(head, features) for head in trained])
    return Answers(task, outputs, targets, classes)


# --- coarser and finer questions to the same answers -----------------------------------------------


def grouped(answers: Answers, groups: Sequence[Sequence[str]]) -> Answers:
    """The answers as if the classes of a group were one, which is as likely as its likeliest.

    Every class must be in one group. Chance is that of naming a class at random.
    """
    where = [[answers.classes.index(name) for name in group] for group in groups]
    outputs = np.stack([answers.outputs[..., numbers].max(-1) for numbers in where], -1)
    number = {c: g for g, numbers in enumerate(where) for c in numbers}
    targets = np.array([number[t] for t in answers.targets])
    chance = sum((len(numbers) / len(number)) ** 2 for numbers in where)
    metric = Metric(metrics.top1, lambda outputs, targets: chance)
    task = Task({"top1": metric}, multilayer.predict)
    return Answers(task, outputs, targets, ["/".join(group) for group in groups])


def within(answers: Answers, pairs: Sequence[tuple[str, str]]) -> Answers:
    """Which of the two of a pair, for the clips of these pairs, when the pair is known."""
    outputs, targets = [], []
    for pair in pairs:
        numbers = [answers.classes.index(name) for name in pair]
        rows = np.isin(answers.targets, numbers)
        outputs.append(answers.outputs[:, rows][..., numbers])
        targets.append((answers.targets[rows] == numbers[1]).astype(int))
    task = Task(TOP1, multilayer.predict)
    return Answers(task, np.concatenate(outputs, 1), np.concatenate(targets), ("first", "second"))


# --- numbers -------------------------------------------------------------------------------------


def row(
    name: str,
    *answers: Answers,
    metric: str | None = None,
    unit: str = "fraction",
    combine: Callable = lambda score: score,
) -> dict:
    """A headline row: `combine` of the scores of answers to the same clips with the same seeds,
    which stay paired.

    Its interval is a 95% bootstrap over seeds and clips (`metrics.interval`); a metric that is no
    mean over clips is computed anew for every draw (`Metric.basic` says which interval is taken).
    """
    scores = [one.scores(metric) for one in answers]
    if all(score.ndim == 2 for score in scores):
        value, low, high = metrics.interval(combine(*scores))
    else:
        value = float(combine(*(score.mean() for score in scores)))
        drawn = combine(*(one.bootstrapped(metric) for one in answers))
        value, low, high = metrics.between(value, drawn)
        # In a difference on the same clips what `basic` corrects cancels.
        if len(answers) == 1 and answers[0].task.metrics[metric or answers[0].metric].basic:
            low, high = 2 * value - high, 2 * value - low
            if unit == "fraction":
                low, high = max(low, 0.0), min(high, 1.0)
    return {"name": name, "value": value, "low": low, "high": high, "unit": unit}


def rows(name: str, answers: Answers) -> list[dict]:
    """A headline row for each metric of a task: `<name>_<metric>`."""
    return [row(f"{name}_{metric}", answers, metric=metric) for metric in answers.task.metrics]


def difference(name: str, one: Answers, other: Answers, *, metric: str | None = None) -> dict:
    """The headline row of one encoder minus another, in points."""
    return row(name, one, other, metric=metric, unit="points", combine=lambda a, b: 100 * (a - b))


def ratio(name: str, one: Answers, other: Answers) -> dict:
    """The headline row of one adaptation's score as a share of another's."""
    value = float(one.scores().mean() / other.scores().mean())
    drawn = one.bootstrapped() / np.maximum(other.bootstrapped(), 1e-9)
    value, low, high = metrics.between(value, drawn)
    return {"name": name, "value": value, "low": low, "high": high, "unit": "fraction"}


def mean(name: str, answers: Iterable[Answers]) -> dict:
    """The headline row of the mean over several tasks on the same clips."""
    return row(name, *answers, combine=lambda *scores: np.mean(scores, axis=0))


def over_chance(name: str, one: Answers) -> dict:
    """The headline row of how many times better than chance."""
    return row(name, one, unit="times chance", combine=lambda score: score / one.chance())


def table(answers: Mapping[tuple[str, str], Answers]) -> pd.DataFrame:
    """A row for each encoder and task: the first metric, its interval and chance, and its value of
    every seed.
    """
    found = []
    for (encoder, task), one in answers.items():
        numbers, scores = row(one.metric, one), one.scores()
        found.append(
            {
                "task": task,
                "encoder": encoder,
                one.metric: numbers["value"],
                "low": numbers["low"],
                "high": numbers["high"],
                "chance": one.chance(),
                "clips": len(one.targets),
                "seeds": [*scores.reshape(len(scores), -1).mean(1).round(4)],
            }
        )
    return pd.DataFrame(found)

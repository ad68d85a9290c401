"""The paper's benchmarks: what each asks of the lines that `vplib.data.public` wrote, and its score.

A benchmark is a cell of `conf/data/<data set>.yaml`: task, metric, the paper's frames, stride and
views, and the published row that it stands beside. `asked` turns lines of metadata into items and
their truth; `score` takes a prediction of every item to the metric, which others have already:

    label, actions    (C, K) scores of the classes of each clip
    labels            the same, of clips with several labels
    segments          {video: [(start, end, label, score)]} in seconds
    boxes             [(video, second, x1, y1, x2, y2, label, score)]
    t2v, v2t          (texts, videos) similarity
    sentences         (segments, sentences) similarity, of all videos
    options           (questions, options) similarity
    captions, answers, wups   a text each
    bouts             (frames, behaviours) scores
    windows           (windows, behaviours) scores
"""

import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vplib.data import sources
from vplib.data.shards import Clip
from vplib.evaluate import answers, captioning, detection, metrics, precision, ranking, tasks, wups
from vplib.evaluate.tasks import LabelError


@dataclass(frozen=True)
class Cell:
    """One number of the paper's tables. `frames`, `stride` (frames of the video from one that is
    shown to the next) and `clips` x `crops` views are the paper's, None where unknown; `table`,
    `row`, `kind` and `metric` find it in `published_results.csv`. `beside` is a JSON beside the
    lines that says more, `background` a class that no mean counts, `files` a pattern of the names
    of its videos, `only` a text file beside the lines that names the entries that count (`listed`).
    """

    name: str
    task: str
    part: str
    metric: str
    frames: int | None
    stride: int | None
    clips: int | None
    crops: int | None
    table: str
    row: str
    kind: str
    beside: str | None = None
    background: str | None = None
    files: str | None = None
    only: str | None = None


class Asked(NamedTuple):
    """`items` need a prediction each; `truth` is what the task's metric takes, of `classes`."""

    items: list
    truth: Any
    classes: list


def cells(benchmarks: Mapping[str, Mapping]) -> dict[str, Cell]:
    """The section `data.benchmarks` of a configuration."""
    return {name: Cell(name=name, **of) for name, of in benchmarks.items()}


def lines(root: Path, part: str) -> list[dict]:
    """The lines of a part that `vplib.data.public` wrote; none where there is no such part."""
    path = root / part / "metadata.jsonl"
    told = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in told]


def of_cell(cell: Cell, metas: Iterable[Mapping]) -> list[Mapping]:
    """The lines of the videos that a cell is about."""
    pattern = cell.files or "*"
    return [meta for meta in metas if fnmatch.fnmatch(Path(meta["file_name"]).name, pattern)]


def listed(path: Path) -> set[str]:
    """The ids of a text file, one a line; of a table with commas its first column, whose name is
    none. Raises LabelError for one that cannot be read.
    """
    try:
        told = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(
            f"{path}: this list of ids cannot be read; write one id a line, or correct `only` of "
            "data.benchmarks."
        ) from error
    return {ident for line in told if (ident := line.split(",")[0].strip().strip('"'))}


def asked(cell: Cell, metas: Iterable[Mapping], root: Path) -> Asked:
    """What a cell asks of the lines of its part; `root` is the folder that holds `<part>/` and what
    the annotations say beside their entries.

    Raises LabelError where no line is of this benchmark, or a file beside them is not there.
    """
    some = of_cell(cell, metas)
    if cell.only:
        counts = listed(Path(root) / cell.only)
        some = [meta for meta in some if str(meta["id"]) in counts]
    found = TASKS[cell.task].ask(cell, some, Path(root))
    if not found.items:
        raise LabelError(
            f"{root}: no line of {cell.part} can be asked for {cell.row}; write it with "
            "python -m vplib.data.public, or correct data.root."
        )
    return found


def score(cell: Cell, of: Asked, predictions: Any) -> float:
    """The metric, in [0, 1]; CIDEr-D in [0, 10]. Raises what the metric raises."""
    return float(TASKS[cell.task].score(cell, of, predictions))


def chance(cell: Cell, of: Asked) -> float:
    """What guesses that know nothing get; NaN where that is no single number."""
    known = TASKS[cell.task].chance
    return float(known(of)) if known else float("nan")


def paragraphs(root: Path, part: str) -> dict[str, str]:
    """The text of each video of a part, by id, of a data set that has one. Raises LabelError."""
    return _beside(root, "paragraphs").get(part, {})


class Told:
    """A source as `evaluate.features.Originals` whose lines, where `vplib.data.public` wrote them,
    have the fields that other tasks read: several `texts` as `captions_reference`, and a question
    with its answer as `qa`.
    """

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Clip:
        return self._source[index]

    def original(self, index: int) -> tuple[Any, dict]:
        """As the source's, with those fields."""
        file, meta = self._source.original(index)
        found = {}
        if len(meta.get("texts") or ()) > 1:
            found["captions_reference"] = meta["texts"]
        if {"question", "answer"} <= meta.keys() and "qa" not in meta:
            options, answer = meta.get("options"), meta["answer"]
            answer = options[answer] if options and isinstance(answer, int) else answer
            one = {"question": meta["question"], "answer": answer}
            found["qa"] = [one | {"kind": meta.get("type", "question")}]
        return file, meta | found


class Whole:
    """The videos of a part, each once, with all its `events`: `localise.untrimmed` reads them."""

    def __init__(self, folder: Path):
        self._folder, self._events = folder, {}
        for meta in lines(folder.parent, folder.name):
            self._events.setdefault(meta["file_name"], []).extend(
                {"label": label, "start": meta["start"], "end": meta["end"]}
                for label in meta["labels"]
            )
        self._names = [*self._events]

    def __len__(self) -> int:
        return len(self._names)

    def original(self, index: int) -> tuple[Path, dict]:
        """A video file, and its name and events."""
        name = self._names[index]
        return self._folder / name, {"file_name": name, "events": self._events[name]}


def timed(data: Mapping) -> dict[str, Whole]:
    """Whole videos of the training part and of the part that a benchmark of events is scored on, by
    part; none where a configuration of `data` has no such benchmark.
    """
    found = [
        cell["part"] for cell in data.get("benchmarks", {}).values() if cell["task"] == "segments"
    ]
    root = sources.resolve(data["root"]) if found else Path()
    return {part: Whole(root / part) for part in ("train", *found)} if found else {}


class _Task(NamedTuple):
    ask: Callable[[Cell, list, Path], Asked]
    score: Callable[[Cell, Asked, Any], float]
    chance: Callable[[Asked], float] | None = None


def _beside(root: Path, name: str | None, *, need: bool = True) -> Any:
    """What a JSON beside the lines holds; None where it is not there and not needed."""
    path = root / f"{name}.json"
    if name and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    if name and need:
        raise LabelError(
            f"{path}: there is no such file; give python -m vplib.data.public all official files."
        )
    return None


# --- classes of clips ----------------------------------------------------------------------------


def _classes(root: Path, found: Iterable[str]) -> list[str]:
    """Those of the official list, in its order, or those that are found."""
    known = _beside(root, "classes", need=False)
    return [*known.values()] if isinstance(known, dict) else known or sorted(set(found))


def _label(cell: Cell, metas: list, root: Path) -> Asked:
    metas = [meta for meta in metas if len(meta["labels"]) == 1]
    labels = [meta["labels"][0] for meta in metas]
    classes = _classes(root, labels)
    use, numbers = tasks.class_numbers(labels, classes)
    return Asked([metas[at] for at in np.flatnonzero(use)], numbers[use], classes)


def _labels(cell: Cell, metas: list, root: Path) -> Asked:
    classes = _classes(root, (label for meta in metas for label in meta["labels"]))
    use, targets = tasks.class_sets([meta["labels"] for meta in metas], classes)
    return Asked([metas[at] for at in np.flatnonzero(use)], targets[use], classes)


def _top1(cell: Cell, of: Asked, outputs: np.ndarray) -> float:
    return metrics.top1(outputs, of.truth).mean()


def _actions(cell: Cell, of: Asked, outputs: np.ndarray) -> float:
    shown = np.unique(of.truth)
    return ranking.action_map(outputs.T[shown], of.truth == shown[:, None]).mean()


def _actions_chance(of: Asked) -> float:
    return np.mean(precision.random_precision(of.truth[:, None] == np.unique(of.truth)))


# --- when, and where -----------------------------------------------------------------------------


def _videos(metas: Iterable[Mapping]) -> list[str]:
    return list(dict.fromkeys(meta["file_name"] for meta in metas))


def _segments(cell: Cell, metas: list, root: Path) -> Asked:
    truth = {file: [] for file in _videos(metas)}
    for meta in metas:
        truth[meta["file_name"]] += [(meta["start"], meta["end"], one) for one in meta["labels"]]
    return Asked([*truth], truth, _classes(root, (row[2] for of in truth.values() for row in of)))


def _segment_map(cell: Cell, of: Asked, found: Mapping[str, Sequence]) -> float:
    shown = {label for rows in of.truth.values() for *_, label in rows}
    classes = [label for label in of.classes if label in shown]
    matched = detection.match_segments(of.truth, found, videos=of.items, classes=classes)
    return detection.mean_average_precision(matched)


def _boxes(cell: Cell, metas: list, root: Path) -> Asked:
    """Items are key frames: video and second (of ChimpACT: number of the frame).

    Frames without a box are in no line, so what is found there counts nowhere, as in VideoGLUE.
    """
    truth = []
    for meta in metas:
        frame = (meta["file_name"], float(meta.get("keyframe", meta["start"])))
        truth += [
            (*frame, *box["xyxy"], label)
            for box in meta["boxes"]
            for label in box.get("label_ids", box.get("label_ids_from_1"))
        ]
    scored = _beside(root, cell.beside)
    items = list(dict.fromkeys(row[:2] for row in truth))
    return Asked(items, truth, scored or sorted({row[6] for row in truth}))


def _box_map(cell: Cell, of: Asked, found: Sequence[Sequence]) -> float:
    return detection.mean_average_precision(detection.match_boxes(of.truth, found, of.classes))


# --- texts ---------------------------------------------------------------------------------------


def _retrieval(cell: Cell, metas: list, root: Path) -> Asked:
    """Items are videos; truth is texts and, of each, which video it is said of."""
    files = {meta["id"]: meta["file_name"] for meta in metas}
    told = _beside(root, cell.beside)
    if cell.beside == "paragraphs":
        pairs = [*paragraphs(root, cell.part).items()]
    elif told is not None:  # a split with a text a video
        pairs = told.get("test", [])
    else:
        pairs = [(meta["id"], text) for meta in metas for text in meta["texts"]]
    pairs = [(ident, text) for ident, text in pairs if ident in files]
    items = list(dict.fromkeys(files[ident] for ident, _ in pairs))
    own = np.array([items.index(files[ident]) for ident, _ in pairs], int)
    right = own[:, None] == np.arange(len(items))
    return Asked(items, ([text for _, text in pairs], right), [])


def _recall(turn: bool) -> tuple[Callable, Callable]:
    def score(cell: Cell, of: Asked, similarity: np.ndarray) -> float:
        right = of.truth[1]
        both = (similarity.T, right.T) if turn else (similarity, right)
        return ranking.recall_of_any(*both, k=1).mean()

    def guess(of: Asked) -> float:
        return ranking.recall_chance(of.truth[1].T if turn else of.truth[1], k=1)

    return score, guess


def _sentences(cell: Cell, metas: list, root: Path) -> Asked:
    texts = [meta["texts"][0] for meta in metas]
    return Asked(metas, (texts, np.array(_indices(metas))), [])


def _indices(metas: Sequence[Mapping]) -> list[int]:
    numbers = {file: number for number, file in enumerate(_videos(metas))}
    return [numbers[meta["file_name"]] for meta in metas]


def _matched(cell: Cell, of: Asked, similarity: np.ndarray) -> float:
    allowed = ranking.within_video(similarity, of.truth[1])
    return ranking.choice(allowed, np.arange(len(allowed))).mean()


def _matched_chance(of: Asked) -> float:
    count = len(of.items)
    return ranking.choice_chance(ranking.within_video(np.zeros((count, count)), of.truth[1]))


def _captions(cell: Cell, metas: list, root: Path) -> Asked:
    said = [meta for meta in metas if meta["texts"]]
    return Asked(said, [meta["texts"] for meta in said], [])


def _cider(cell: Cell, of: Asked, found: Sequence[str]) -> float:
    known = [[captioning.ptb_like(text) for text in texts] for texts in of.truth]
    return captioning.cider_d([captioning.ptb_like(text) for text in found], known).mean()


def _answers(cell: Cell, metas: list, root: Path) -> Asked:
    return Asked(metas, [meta["answer"] for meta in metas], [])


def _exact(cell: Cell, of: Asked, found: Sequence[str]) -> float:
    return answers.exact_match(found, of.truth).mean()


def _open(cell: Cell, metas: list, root: Path) -> Asked:
    metas = [meta for meta in metas if meta["task"] == "oe"]
    known = [[meta["answer"], *meta.get("more_answers", ())] for meta in metas]
    return Asked(metas, known, [meta["type"] for meta in metas])


def _wups(cell: Cell, of: Asked, found: Sequence[str]) -> float:
    wordnet = wups.installed()
    known = [[wups.normalise(one, wordnet) for one in texts] for texts in of.truth]
    said = [wups.normalise(one, wordnet) for one in found]
    return wups.wups(said, known, of.classes, wordnet).mean()


def _options(cell: Cell, metas: list, root: Path) -> Asked:
    chosen = set(_beside(root, cell.beside) or ())
    metas = [meta for meta in metas if meta["task"] == "mc" and meta["qid"] in chosen]
    return Asked(metas, np.array([meta["answer"] for meta in metas], int), [])


def _choice(cell: Cell, of: Asked, similarity: np.ndarray) -> float:
    return ranking.choice(similarity, of.truth).mean()


# --- behaviour -----------------------------------------------------------------------------------


def _runs(meta: Mapping) -> list[tuple[str, int, int]]:
    """Label, first frame and frame behind the last of what a line says."""
    if "bouts" in meta:
        return [(one["label"], one["start_frame"], one["end_frame"]) for one in meta["bouts"]]
    return [(label, int(meta["start"]), int(meta["end"])) for label in meta["labels"]]


def _bouts(cell: Cell, metas: list, root: Path) -> Asked:
    """Items are (video, frame) up to the end of the last bout; truth has ones for what is shown.

    Of CRIM13's streams the first alone is read (our choice: what the second is, is unknown).
    """
    runs: dict[str, list] = {}
    for meta in metas:
        if meta.get("stream", 1) == 1:
            runs.setdefault(meta["file_name"], []).extend(_runs(meta))
    classes = sorted({label for of in runs.values() for label, *_ in of} - {cell.background})
    items, truth = [], []
    for file, of in runs.items():
        shown = np.zeros((max(end for *_, end in of), len(classes)), int)
        for label, start, end in of:
            if label != cell.background:
                shown[start:end, classes.index(label)] = 1
        items += [(file, frame) for frame in range(len(shown))]
        truth.append(shown)
    return Asked(items, np.concatenate(truth) if truth else np.zeros((0, 0), int), classes)


def _frame_map(cell: Cell, of: Asked, outputs: np.ndarray) -> float:
    return precision.mean_average_precision(outputs, of.truth, skip_absent=True)


def _windows(cell: Cell, metas: list, root: Path) -> Asked:
    """Items are (video, first frame, frame behind the last) of clips that follow each other, each
    labelled as its middle frame is; the rest of a video is none (our choice), but a short video is
    one clip.
    """
    length = (cell.frames or 1) * (cell.stride or 1)
    items, labels = [], []
    for meta in metas:
        each = [label for label, start, end in _runs(meta) for _ in range(start, end)]
        for start in range(0, max(len(each) - length, 0) + 1, length):
            end = min(start + length, len(each))
            items.append((meta["file_name"], start, end))
            labels.append(each[(start + end) // 2])
    classes = _classes(root, labels)
    return Asked(items, np.array([classes.index(label) for label in labels], int), classes)


def _macro(cell: Cell, of: Asked, outputs: np.ndarray) -> float:
    return precision.macro_accuracy(outputs, of.truth)


TASKS = {
    "label": _Task(_label, _top1, lambda of: 1 / len(of.classes)),
    "labels": _Task(
        _labels,
        lambda cell, of, outputs: precision.charades_map(outputs, of.truth, skip_absent=True),
        lambda of: np.nanmean(precision.random_precision(of.truth)),
    ),
    "actions": _Task(_label, _actions, _actions_chance),
    "segments": _Task(_segments, _segment_map),
    "boxes": _Task(_boxes, _box_map),
    "t2v": _Task(_retrieval, *_recall(turn=False)),
    "v2t": _Task(_retrieval, *_recall(turn=True)),
    "sentences": _Task(_sentences, _matched, _matched_chance),
    "options": _Task(_options, _choice, lambda of: 1 / 5),
    "captions": _Task(_captions, _cider),
    "answers": _Task(_answers, _exact),
    "wups": _Task(_open, _wups),
    "bouts": _Task(
        _bouts,
        _frame_map,
        lambda of: np.nanmean(precision.random_precision(of.truth)),
    ),
    "windows": _Task(_windows, _macro, lambda of: 1 / len(np.unique(of.truth))),
}

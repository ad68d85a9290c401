"""What `43_science` asks of each family of animals: the embedded world's, and public data sets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from vplib.data import pictures, sources, video
from vplib.data.cutting import Stretch
from vplib.evaluate import benchmarks, features, keyframes, science, tasks, windows
from vplib.evaluate.benchmarks import Cell
from vplib.evaluate.features import Originals
from vplib.evaluate.originals import Around, Cut
from vplib.evaluate.tasks import LabelError

FORMS = {"bouts": "frames", "boxes": "boxes", "windows": "clips"}  # of the tasks of `benchmarks`
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Family:
    """`form` says what has labels: frames of long videos, boxes, or clips. `classes` are what heads
    tell apart beside the `background`. A clip is `windows` windows of `length` seconds, which are
    read one after the other and have one answer. Of `alike` videos, equally long ones, all windows
    are encoded at once.
    """

    stands_for: str
    form: str
    classes: tuple[str, ...]
    frames: int  # of a video or clip
    fps: float
    length: float
    windows: int = 1
    alike: bool = False
    background: str = "background"


def drawn(families: Mapping[str, Any], apes: Sequence[str], data: Mapping) -> dict[str, Family]:
    """The families of the embedded world, `world.animals.FAMILIES`; `apes`: the labels of boxes.
    Windows last as long as the clips of training did.
    """
    length, found = data["clip_frames"] / data["fps"], {}
    for name, of in families.items():
        form = {"flies": "frames", "mice": "frames", "chimps": "boxes"}.get(name, "clips")
        count = 1 if form == "frames" else round(of.frames / of.fps / length)
        classes = tuple(apes if form == "boxes" else of.often)
        look = dict(windows=count, alike=True)
        found[name] = Family(of.stands_for, form, classes, of.frames, of.fps, length, **look)
    return found


def public(
    data: Mapping, *, frames: int, size: int
) -> tuple[dict[str, Family], dict[tuple[str, str], Cut | Around]]:
    """The families of a public data set, one for each of its `benchmarks` that asks for behaviour,
    and the videos of each of PARTS that there is, with their labels in `metas`.

    A window lasts as many frames as the paper's clip, 16 every `stride`, and shows `frames` of
    `size` pixels. Where the annotations name no parts, every second file in the order of names is
    for the test (our choice). Raises LabelError where there is nothing to learn or to ask.
    """
    root, found, known = sources.resolve(data["root"]), {}, {}
    view = dict(frames=frames, size=size, resolution=data["resolution"])
    for name, cell in benchmarks.cells(data.get("benchmarks", {})).items():
        if cell.task in FORMS:
            parts = _parts(cell, root)
            found[name], of = _READ[cell.task](
                cell, parts, root, view | {"max": data["max_pixels"]}
            )
            known |= {(name, part): source for part, source in of.items()}
    return found, known


Lines = dict[str, tuple[Path, list[dict]]]  # of a part: the folder of its files, and its lines


def _parts(cell: Cell, root: Path) -> Lines:
    """The lines of a cell by part."""
    names = dict(zip(PARTS, ("train", "val", cell.part), strict=True))
    if cell.part == "val":
        del names["validation"]
    found = {}
    for part, split in names.items():
        if some := benchmarks.of_cell(cell, benchmarks.lines(root, split)):
            found[part] = root / split, some
    if "test" in found and "train" not in found:
        folder, every = found["test"]
        files = sorted({meta["file_name"] for meta in every})
        of_test = set(files[1::2])
        for part in ("train", "test"):
            own = [meta for meta in every if (meta["file_name"] in of_test) == (part == "test")]
            found[part] = folder, own
    if not (found.get("train") and found.get("test") and all(some for _, some in found.values())):
        raise LabelError(
            f"{root}: there are no two files of {cell.row}, one to learn from and one for the test; "
            "write them with python -m vplib.data.public, or correct data.root."
        )
    return {part: found[part] for part in PARTS if part in found}


def _every(cell: Cell, parts: Lines, root: Path) -> benchmarks.Asked:
    return benchmarks.asked(cell, [meta for _, some in parts.values() for meta in some], root)


def _of_frames(cell: Cell, parts: Lines, root: Path, view: dict) -> tuple[Family, dict]:
    """What is `shown` in each frame of a video; behind its last bout, the background (our choice)."""
    of, own = _every(cell, parts, root), {}
    for place, (file, _) in enumerate(of.items):
        own.setdefault(file, []).append(place)
    background = cell.background or Family.background
    classes, found, rate = [*of.classes, background], {}, 0.0
    for part, (folder, some) in parts.items():
        metas = []
        for file in dict.fromkeys(meta["file_name"] for meta in some):
            count, fps = _measured(folder / file, file)
            shown = _shown(of.truth[own[file]], count or len(own[file]))
            rate, labels = rate or fps, [classes[k] for k in shown.argmax(1)]
            metas.append({"file_name": file, "shown": shown, "frame_labels": labels})
        look = dict(resolution=view["resolution"], max_pixels=view["max"])
        found[part] = Cut(folder, metas, **look)
    frames = len(found["test"].metas[0]["shown"])
    length = cell.frames * cell.stride / rate
    family = Family(
        cell.row, "frames", tuple(of.classes), frames, rate, length, background=background
    )
    return family, found


def _shown(truth: Int[np.ndarray, "_ K"], frames: int) -> Int[np.ndarray, "T K+1"]:
    """Ones for what each of so many frames shows, and last for the background, where nothing is."""
    found = np.zeros((frames, truth.shape[1] + 1), int)
    found[: len(truth), :-1] = truth[:frames]
    found[:, -1] = ~found.any(1)
    return found


def _measured(path: Path, name: str) -> tuple[int, float]:
    """How many frames a video has, 0 where its header does not say, and how many a second."""
    if path.is_dir():
        return len(pictures.pictures(path)), pictures.RATE
    found = video.probe(path, name=name)
    return found.frames, found.fps


def _of_boxes(cell: Cell, parts: Lines, root: Path, view: dict) -> tuple[Family, dict]:
    look = dict(frames=view["frames"], size=view["size"], max_pixels=view["max"])
    found = {
        part: keyframes.around(cell, some, root, folder, **look)
        for part, (folder, some) in parts.items()
    }
    for source in found.values():  # as `science.boxed` takes them: a box a frame, here of one frame
        source.metas = [
            meta | {"boxes": [[place] for place in meta["places"]], "box_labels": meta["labels"]}
            for meta in source.metas
            if meta["places"]
        ]
    folder, [first, *_] = parts["test"]
    rate = _measured(folder / first["file_name"], first["file_name"])[1]
    names = keyframes.names(root)
    classes = tuple(names.get(one, str(one)) for one in _every(cell, parts, root).classes)
    span = cell.frames * cell.stride
    return Family(cell.row, "boxes", classes, span, rate, span / rate), found


def _of_clips(cell: Cell, parts: Lines, root: Path, view: dict) -> tuple[Family, dict]:
    classes, found = tuple(_every(cell, parts, root).classes), {}
    look = dict(resolution=view["resolution"], max_pixels=view["max"])
    for part, (folder, some) in parts.items():
        of = benchmarks.asked(cell, some, root)
        metas = [
            {"file_name": file, "labels": {"behaviour": of.classes[k]}}
            for (file, *_), k in zip(of.items, of.truth, strict=True)
        ]
        found[part] = Cut(folder, metas, [Stretch(a, b, True) for _, a, b in of.items], **look)
    file = found["test"].metas[0]["file_name"]
    span, rate = cell.frames * cell.stride, _measured(parts["test"][0] / file, file)[1]
    return Family(cell.row, "clips", classes, span, rate, span / rate), found


_READ = {"bouts": _of_frames, "boxes": _of_boxes, "windows": _of_clips}


def metadata(source: Originals) -> Sequence[Mapping | None]:
    """What is known of each video; of a public part without reading any."""
    return source.metas if isinstance(source, Cut | Around) else features.metadata(source)


def fingerprint(data: Mapping) -> str:
    """Digests of all that a public data set's folder says and of its videos (their sizes and ends)."""
    look = dict(resolution=data["resolution"], max_pixels=data["max_pixels"], captions=False)
    each = (sources.split("folder", data["root"], part, **look) for part in sources.parts(data))
    return " ".join(one.fingerprint for one in each)


# --- joined with labels --------------------------------------------------------------------------


def labelled(
    of: Family,
    source: Originals,
    metas: Sequence[Mapping | None],
    encoders: Mapping[str, Callable],
    *,
    name: str,
    trains: bool,
    stride: int,
    frames: int,
    grid: int,
    most: int,
    batch: int,
    **reading,
) -> science.Part:
    """A part of a family, read by all `encoders` in one pass and joined with its labels.

    Windows of long videos begin every `stride` frames where single frames are scored, and half of
    each is new where a part `trains`. A window shows `frames` frames, tokens are a `grid` of as many
    a side, and there are at most `most` boxes. `batch` clips, or windows, and `reading` as
    `features.features`. Raises what is raised there and in `science`.
    """
    if of.form == "frames":
        step = of.length / 2 if trains else stride / of.fps
        if of.alike:
            batch = len(windows.starts(of.frames / of.fps, of.length, step))
        cut = dict(length=of.length, stride=step, frames=frames, batch=batch)
        found = windows.features(encoders, source, name=name, **cut, **reading)
        if "shown" in metas[found.rows[0]]:
            shown = [metas[row]["shown"] for row in found.rows]
            return science.timed(found, shown, [*of.classes, of.background], length=of.length)
        where = dict(background=of.background, length=of.length, name=name)
        return science.framed(found, metas, of.classes, **where)
    frames, batch = of.windows * frames, max(batch // of.windows, 1)
    found = features.features(encoders, source, name=name, frames=frames, batch=batch, **reading)
    if of.form == "boxes":
        # What is around a key frame is shown as a whole.
        resolution = reading["size" if isinstance(source, Around) else "resolution"]
        places = dict(grid=(frames // of.windows, grid, grid), size=reading["size"], most=most)
        return science.boxed(found, metas, of.classes, resolution=resolution, name=name, **places)
    labels = tasks.labels(metas, "labels.behaviour", name=name)
    return science.whole(found, labels, of.classes, name=name)


def told(
    of: Family, meta: Mapping, part: science.Part, said: np.ndarray, *, stride: int
) -> list[dict]:
    """What is true of the first video of a test part, and what `said`, the probabilities of a head
    on stage 2, makes of it: stretches {who, start, end, label} of time in seconds, or one a box or
    clip. `stride` as `labelled`.
    """
    if of.form != "frames":
        if of.form == "boxes":
            true, said = meta["box_labels"], said[0][: len(meta["box_labels"])]
            named = ([k for k, p in zip(part.classes, one, strict=True) if p > 0.5] for one in said)
            guess = [*named]
        else:
            true, guess = [[meta["labels"]["behaviour"]]], [[part.classes[said[0].argmax()]]]
        every = (("truth", true), ("stage2", guess))
        when = dict(start=0.0, end=of.frames / of.fps)
        return [
            dict(who=who, **when, label=", ".join(one)) for who, found in every for one in found
        ]
    own = part.rows // part.truth.shape[1] == 0
    times = (np.arange(len(meta["frame_labels"])) + 0.5) / of.fps
    at = windows.nearest(np.arange(own.sum()) * stride / of.fps, of.length, times)
    truth = np.array([part.classes.index(label) for label in meta["frame_labels"]])
    rows = []
    for who, numbers in (("truth", truth), ("stage2", said[own].argmax(1)[at])):
        cuts = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
            row = dict(who=who, start=begin / of.fps, end=end / of.fps)
            rows.append(row | {"label": part.classes[numbers[begin]]})
    return rows

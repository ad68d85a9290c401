"""Key frames of public benchmarks, whose boxes have several labels each: AVA's and ChimpACT's."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from vplib.data import sources, video
from vplib.evaluate import benchmarks, features
from vplib.evaluate.benchmarks import Cell
from vplib.evaluate.localise import KeyFrames
from vplib.evaluate.originals import Around, placed


def names(root: Path) -> dict[int, str]:
    """The classes of a data set by number; none where its annotations do not name them."""
    path = root / "classes.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {int(number): name for number, name in told.items()}


def around(
    cell: Cell,
    metas: Sequence[Mapping],
    root: Path,
    folder: Path,
    *,
    frames: int,
    size: int,
    max_pixels: int,
) -> Around:
    """Clips of `frames` frames around the key frames of lines of `folder`, spread over as many
    frames of the video as the paper's clip; `metas` of it have the `places` of boxes in the square
    that is shown, and the `labels` of each that are scored. Boxes without area are left out.

    Raises LabelError as `benchmarks.asked`, and VideoError for a video that cannot be read.
    """
    of, called = benchmarks.asked(cell, metas, root), names(root)
    scored, boxes = {*of.classes}, {item: {} for item in of.items}
    for file, at, *place, label in of.truth:
        own = boxes[file, at].setdefault(tuple(place), [])
        if label in scored:
            own.append(called.get(label, str(label)))
    unit = {meta["file_name"]: meta.get("unit") for meta in metas}

    @cache
    def sides(file: str) -> tuple[int, int]:
        found = video.probe(folder / file, name=file, max_pixels=max_pixels)
        return found.width, found.height

    told = []
    for (file, moment), each in boxes.items():
        pairs = [(placed(place, *sides(file)), labels) for place, labels in each.items()]
        pairs = [(to, labels) for to, labels in pairs if to[0] < to[2] and to[1] < to[3]]
        meta = {"file_name": file, "unit": unit[file], "moment": moment}
        meta |= {"places": [to for to, _ in pairs], "labels": [labels for _, labels in pairs]}
        told.append(meta)
    look = dict(frames=frames, span=cell.frames * cell.stride, size=size, max_pixels=max_pixels)
    return Around(folder, told, **look)


def parts(data: Mapping, *, frames: int, size: int) -> dict[str, Around]:
    """The training part and the scored one of a data set with a benchmark of boxes, by name; none
    of another.
    """
    cells = benchmarks.cells(data.get("benchmarks", {})).values()
    for cell in [one for one in cells if one.task == "boxes"]:
        root = sources.resolve(data["root"])
        look = dict(frames=frames, size=size, max_pixels=data["max_pixels"])
        return {
            part: around(cell, benchmarks.lines(root, part), root, root / part, **look)
            for part in ("train", cell.part)
        }
    return {}


def key_frames(
    encoders: Mapping[str, Callable], source: Around, *, name: str, **reading
) -> KeyFrames:
    """Tokens of every clip of `source` and the boxes of its key frame, with a tuple of labels each;
    `names` are those of the videos. `reading` as `features.features`, and so is what is raised.
    """
    found = features.features(encoders, source, name=name, **reading)
    told = [source.metas[row] for row in found.rows]
    boxes = [np.array(meta["places"], float).reshape(-1, 4) for meta in told]
    labels = [[tuple(one) for one in meta["labels"]] for meta in told]
    return KeyFrames([meta["file_name"] for meta in told], found.values, boxes, labels)

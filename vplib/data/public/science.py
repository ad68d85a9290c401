"""Benchmarks of animal behaviour: labels of frames, of stretches of frames, of boxes."""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vplib.data.public.annotations import AnnotationError, Annotations
from vplib.data.public.localisation import actions
from vplib.data.public.rows import Row, bouts, distinct, whole

MICE = {"attack": 0, "investigation": 1, "mount": 2, "other": 3}  # of CalMS21
TITLE = "Caltech Behavior Annotator"
STEP = 10  # frames between the pictures of ChimpACT
ARRAYS = {  # what an array of objects may be made of
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _Arrays(pickle.Unpickler):
    """Builds arrays and what Python has built in, and runs nothing."""

    def find_class(self, module: str, name: str):
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no array")
        return super().find_class(module, name)


def objects(path: Path) -> dict[str, object]:
    """The arrays of an `.npz`, or the one of an `.npy` as "", whatever objects they hold.

    Nothing in the file is run. Raises AnnotationError for a damaged file and for other objects.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path) as archive:
                inside = {name: archive.zip.read(f"{name}.npy") for name in archive.files}
        else:
            inside = {"": path.read_bytes()}
        return {name: _array(io.BytesIO(data)) for name, data in inside.items()}
    except (OSError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise AnnotationError(f"{path}: cannot be read as arrays ({error}).") from error


def _array(file: io.BytesIO):
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    _, _, dtype = read(file)
    if dtype.hasobject:
        return _Arrays(file).load()
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def calms21(notes: Annotations) -> Iterator[Row]:
    """CalMS21, task 1: a row a video with the label of every frame; 063 to 070 are `val`.

    Source: data.caltech.edu/records/s0vdx-0k302; google-deepmind/scivid, data/readers/calms21.py.
    """
    for part in ("train", "test"):
        name = f"calms21_task1_{part}"
        path = (notes.find(f"{name}.json") or notes.find(f"{name}.npy") or [None])[0]
        if path is None:
            continue
        if path.suffix == ".npy":
            told = objects(path)[""].item()
            sequences = (pair for of_one in told.values() for pair in of_one.items())
        else:
            sequences = notes.entries(path, 2)
        for key, sequence in sequences:
            yield _mice(key, sequence)
    if not notes.find("calms21_task1_*.json", "calms21_task1_*.npy"):
        notes.need("calms21_task1_train.json", "calms21_task1_test.json")


def _mice(key: str, sequence: dict) -> Row:
    _, split, name = key.split("/")
    vocabulary = sequence.get("metadata", {}).get("vocab") or MICE
    names = {place: label for label, place in vocabulary.items()}
    labels = [whole(label) for label in sequence["annotations"]]
    held_out = split == "train" and 63 <= int(name.removeprefix("mouse")[:3]) <= 70
    known = {*labels} <= names.keys()
    return Row(
        source=key,
        file=f"task1_videos_mp4/{split}/{name}.mp4",
        names=(f"{split}/{name}", name),
        id=key,
        labels=distinct(names[label] for label in labels) if known else [],
        split="val" if held_out else split,
        more={"frame_labels": labels, "bouts": bouts(labels, names) if known else []},
        reason="unknown_label" if not known else None if labels else "no_label",
    )


def fly_vs_fly(notes: Annotations) -> Iterator[Row]:
    """Fly vs. Fly: a row a bout of one fly, in the numbers of the file, taken as half open.

    Unknown, to be checked on true data: whether MATLAB's counting is meant, the names of the
    videos, and two of the three subsets. Source: readers of the release; neuroethology/TREBA.
    """
    import scipy.io

    for path in notes.need("movie*_actions.mat"):
        notes.place = str(path)
        try:
            told = scipy.io.loadmat(path)
        except Exception as error:  # a damaged file raises anything
            raise AnnotationError(
                f"{path}: the file is damaged ({error}); download it again."
            ) from error
        names = [str(np.ravel(name)[0]) for name in np.ravel(told["behs"])]
        movie = path.stem.removesuffix("_actions")
        place = notes.inside(path).parent.as_posix()
        for fly, of_fly in enumerate(told["bouts"]):
            for name, found in zip(names, of_fly, strict=True):
                for row, (start, end, *_) in enumerate(found, 1):
                    yield Row(
                        source=f"{path.name} fly {fly} {name} {row}",
                        file=f"{place}/{movie}.seq",
                        names=(f"{place}/{movie}", f"{movie}/{movie}", movie),
                        id=movie,
                        start=int(start),
                        end=int(end),
                        labels=[name],
                        more={"unit": "frame", "fly": fly},
                    )


def fly_arrays(notes: Annotations) -> dict:
    """Labels of every frame of the sequences of Task Programming, by part: (frames, behaviours).

    The form of these annotations is unknown; a 1 is taken for a behaviour that is shown.
    """
    found = {
        part: [
            [np.flatnonzero(frame).tolist() for frame in np.asarray(sequence)]
            for sequence in objects(path)["annotations"]
        ]
        for part in ("train", "val", "test")
        for path in notes.find(f"fly_{part}_keypoints.npz")
    }
    return {"frame_labels": found} if found else {}


def crim13(notes: Annotations) -> Iterator[Row]:
    """CRIM13: a row a stretch of a stream, in the text of the Caltech Behavior Annotator.

    There frames count from 1 and the end is one of them. Source: the parser of MARS; names of the
    files and of the subsets are unknown.
    """
    for path in notes.need("*.txt"):
        kinds, stream, row, title = set(), 0, 0, False
        for _, line in notes.lines(path):
            if not title:
                if TITLE not in line:
                    raise AnnotationError(
                        f"{path}: the first line is not that of the {TITLE}; give files of crim13."
                    )
                title = True
            elif line.startswith("S") and line.split()[1:] == ["start", "end", "type"]:
                stream, row = int(line.split(":")[0][1:]), 0
            elif stream and not line.startswith("---"):
                start, end, kind = line.split()
                row += 1
                yield Row(
                    source=f"{path.name} S{stream} row {row}",
                    file=f"{path.stem}.seq",
                    id=path.stem,
                    start=int(start) - 1,
                    end=int(end),
                    labels=[kind],
                    more={"unit": "frame", "stream": stream},
                    reason=None if kind in kinds else "unknown_label",
                )
            elif not stream and len(line.split()) == 2 and not line.endswith(":"):
                kinds.add(line.split()[0])


def chimpact(notes: Annotations) -> Iterator[Row]:
    """ChimpACT: a row a key frame with its boxes; every tenth frame of a video is one.

    Videos of `val` and `test` are named in the official converter; here they come from what it
    wrote (`val_action.csv`) or from a `split_names.json` ({"val": [...], "test": [...]}); the rest
    is `train`. Source: ShirleyMaxx/ChimpACT, tools/.
    """
    names, splits = actions(notes, "action_list.txt"), {}
    for split in ("val", "test"):
        for path in notes.find(f"{split}_action*.csv"):
            splits |= {Path(values[0]).name: split for _, values in notes.records(path)}
    for path in notes.find("split_names.json"):
        splits = {clip: split for split, clips in notes.json(path).items() for clip in clips}
    for path in notes.find("labels/*.json") or notes.need("*_clip_*.json"):
        told, boxes = notes.json(path), {}
        for one in told["annotations"]:
            boxes.setdefault(one["image_id"], []).append(one)
        for image in told["images"]:
            clip, _, picture = image["file_name"].rpartition("/")
            clip, place = clip.rpartition("/")[2] or path.stem, int(picture.partition(".")[0])
            inside = boxes.get(image["id"], [])
            found = [_ape(one, image, names) for one in inside if one["behaviors"]]
            labels = distinct(label for box in found for label in box["labels"])
            numbers = {number for box in found for number in box["label_ids_from_1"]}
            unknown = bool(names) and not numbers <= names.keys()
            missing = "no_label" if inside else "no_box"
            yield Row(
                source=f"{clip} key frame {place}",
                file=f"videos_full/{clip}.mp4",
                id=clip,
                start=STEP * place,
                end=STEP * place + 1,
                labels=labels,
                split=splits.get(clip, "train"),
                more={"unit": "frame", "boxes": found},
                reason="unknown_label" if unknown else None if found else missing,
            )


def chimpact_classes(notes: Annotations) -> dict:
    """The behaviours by number, which begins at 0 in `labels/` and at 1 here."""
    names = actions(notes, "action_list.txt")
    return {"classes": {str(place): names[place] for place in sorted(names)}} if names else {}


def _ape(one: dict, image: dict, names: dict[int, str]) -> dict:
    """A box in parts of the picture and what its ape does: numbered from 0 here, named from 1."""
    x, y, width, height = one["bbox"]
    corners = (x / image["width"], y / image["height"])
    ends = ((x + width) / image["width"], (y + height) / image["height"])
    numbers = sorted(number + 1 for number in one["behaviors"])
    return {
        "xyxy": [round(value, 6) for value in (*corners, *ends)],
        "labels": [names.get(number, str(number)) for number in numbers],
        "label_ids_from_1": numbers,
        "individual": one["bbox_id"],
    }


def kabr(notes: Annotations) -> Iterator[Row]:
    """KABR: a row a video, which is a folder of pictures from 1.jpg on, with a label a frame.

    Source: Imageomics/kabr-tools, src/kabr_tools/cvat2slowfast.py.
    """
    names = _kabr_names(notes)
    columns = ("original_vido_id", "video_id", "frame_id", "path", "labels")
    for path in notes.need("annotation/train.csv", "annotation/val.csv", "train.csv", "val.csv"):
        videos: dict[str, dict[int, int]] = {}
        for _, row in notes.table(path, *columns, delimiter=" "):
            frames = videos.setdefault(row["original_vido_id"], {})
            frames[whole(row["frame_id"])] = whole(row["labels"])
        for ident, frames in videos.items():
            labels = [frames[frame] for frame in sorted(frames)]
            known = {*labels} <= names.keys()
            gaps = sorted(frames) != [*range(1, len(frames) + 1)]
            yield Row(
                source=f"{path.name} {ident}",
                file=f"dataset/image/{ident}",
                names=(ident,),
                id=ident,
                labels=distinct(names[label] for label in labels) if known else [],
                split=path.stem,
                more={
                    "frames": len(labels),
                    "frame_labels": labels,
                    "bouts": bouts(labels, names) if known else [],
                },
                reason="missing_frames" if gaps else None if known else "unknown_label",
            )


def kabr_classes(notes: Annotations) -> dict:
    """The classes in the order of their numbers."""
    names = _kabr_names(notes)
    return {"classes": [names[place] for place in sorted(names)]}


def _kabr_names(notes: Annotations) -> dict[int, str]:
    [path, *_] = notes.need("classes.json")
    return {place: name for name, place in notes.json(path).items()}

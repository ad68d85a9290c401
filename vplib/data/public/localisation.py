"""Benchmarks of localisation: when something happens, or what the people in boxes do."""

import re
from collections.abc import Iterator
from pathlib import Path

from vplib.data.public.annotations import Annotations
from vplib.data.public.rows import CUT_CLIP, Row, distinct, number, part, plain
from vplib.data.public.videos import Videos

AROUND = 1.5  # seconds before and behind a key frame: what the annotators of AVA saw (our choice)
CUT_AT, CUT_TO = 900.0, (895.0, 902.0)  # AVA's films are mostly kept from 900 to 1800 s
ITEM = re.compile(r"(?:label|item)\s*\{(.*?)\}", re.DOTALL)


def activitynet13(notes: Annotations) -> Iterator[Row]:
    """ActivityNet 1.3: a row a segment; the subset for testing has none.

    Source: activitynet/ActivityNet, Evaluation/eval_detection.py.
    """
    for path in notes.need("activity_net.v1-3*.json"):
        told = notes.json(path)
        nodes = told.get("taxonomy", ())
        leaves = {node["nodeName"] for node in nodes} - {node["parentName"] for node in nodes}
        for ident, video in told["database"].items():
            of_video = {
                "file": f"v_{ident}.mp4",
                "names": (f"v_{ident}", ident),
                "id": ident,
                "split": part(video["subset"]),
                "seconds": video.get("duration"),
                "sources": (ident,),
            }
            for place, segment in enumerate(video["annotations"], 1):
                start, end = map(number, segment["segment"])
                label = plain(segment["label"])
                unknown = "unknown_label" if leaves and label not in leaves else None
                yield Row(
                    **of_video,
                    source=f"{ident} {place}",
                    start=start,
                    end=end,
                    labels=[label] if label else [],
                    reason=unknown if label else "no_label",
                )
            if not video["annotations"]:
                yield Row(**of_video, source=ident, reason="no_label")


def activitynet13_classes(notes: Annotations) -> dict:
    """The labels that occur, sorted: the file numbers none of them."""
    [path, *_] = notes.need("activity_net.v1-3*.json")
    videos = notes.json(path)["database"].values()
    return {"classes": distinct(one["label"] for video in videos for one in video["annotations"])}


def actions(notes: Annotations, *patterns: str) -> dict[int, str]:
    """Number and name of each action in a list of AVA's form (`.pbtxt`), also ChimpACT's."""
    found = {}
    for path in notes.find(*patterns)[:1]:
        text = "\n".join(line for _, line in notes.lines(path))
        for item in ITEM.findall(text):
            name = re.search(r'name:\s*"(.*?)"', item)[1]
            found[int(re.search(r"\b(?:label_)?id:\s*(\d+)", item)[1])] = name
    return found


def ava22(notes: Annotations, videos: Videos | None) -> Iterator[Row]:
    """AVA v2.2: a row a key frame, with the boxes of all people in it and what each of them does.

    Times are those of the full film. A file of 15 minutes is taken for one that was cut from 900 to
    1800 s, as most recipes do. Source: cvdfoundation/ava-dataset.
    """
    names = actions(notes, "ava_action_list_v2.2.pbtxt")
    for path in notes.need("ava_train_v2.2.csv", "ava_val_v2.2.csv"):
        split = path.stem.split("_")[1]
        excluded = {
            (ident, number(second))
            for left_out in notes.find(f"ava_{split}_excluded_timestamps_v2.2.csv")
            for _, (ident, second, *_) in notes.records(left_out)
        }
        for ident, second, _, boxes in _key_frames(notes, path, names):
            of_row = {
                "source": f"{path.name}: {ident},{second:04.0f}",
                "file": f"{ident}.mp4",
                "id": ident,
                "split": split,
            }
            at, told = second, {}
            if videos and (file := videos.find(ident)):
                if CUT_TO[0] <= (videos.seconds(file) or 0.0) <= CUT_TO[1]:
                    at, told = second - CUT_AT, {"film_time": second}
            for reason in boxes.skipped:
                yield Row(**of_row, reason=reason)
            reason = "excluded" if (ident, second) in excluded else None
            if boxes.found:
                yield _key_frame(boxes, names, at, told, **of_row, reason=reason)


def ava_60_classes(notes: Annotations) -> dict:
    """All actions, and the numbers of those that the benchmark scores."""
    classes = actions(notes, "ava_action_list_v2.2.pbtxt")
    scored = actions(notes, "ava_action_list_v2.2_for_activitynet_2019.pbtxt")
    return {
        **(
            {"classes": {str(place): classes[place] for place in sorted(classes)}}
            if classes
            else {}
        ),
        **({"labels_60": sorted(scored)} if scored else {}),
    }


def ava_kinetics(notes: Annotations, videos: Videos | None) -> Iterator[Row]:
    """AVA-Kinetics: a row a key frame of a clip of Kinetics-700; the rest of it is AVA v2.2.

    Of several clips that show a moment it is the one whose middle is nearest (our choice).
    Source: mmaction2, tools/data/ava_kinetics.
    """
    names = actions(notes, "ava_action_list_v2.2.pbtxt")
    clips: dict[str, list[tuple[float, float, str]]] = {}
    for file in sorted(videos or ()):
        if found := CUT_CLIP.fullmatch(file.rpartition("/")[2].rpartition(".")[0]):
            clips.setdefault(found[1], []).append((float(found[2]), float(found[3]), file))
    patterns = [f"kinetics_{split}_v1.0.csv" for split in ("train", "val", "test")]
    for path in notes.need(*patterns):
        split = path.stem.split("_")[1]
        for ident, time, word, boxes in _key_frames(notes, path, names):
            around = [clip for clip in clips.get(ident, ()) if clip[0] < time < clip[1]]
            start, _, file = min(
                around, key=lambda clip: abs(clip[0] + clip[1] - 2 * time), default=(0.0, 0.0, "")
            )
            of_row = {
                "source": f"{path.name}: {ident},{word}",
                "file": file,
                "names": (file.rpartition(".")[0],),
                "id": ident,
                "split": split,
            }
            for reason in boxes.skipped:
                withheld = (reason, split) == ("no_box", "test")
                yield Row(**of_row, reason="no_label" if withheld else reason)
            if boxes.found:
                at = number(time - start)
                yield _key_frame(boxes, names, at, {"youtube_time": time}, **of_row)


class _Boxes:
    """The boxes of a key frame with what is done in each, and why rows of it are skipped."""

    def __init__(self):
        self.found: dict[tuple, set[int]] = {}
        self.skipped: list[str] = []

    def add(self, values: list[str], names: dict[int, str]) -> None:
        *corners, action = values[:5]
        person = int(values[5]) if len(values) > 5 else None
        if names and int(action) not in names:
            self.skipped.append("unknown_label")
            return
        labels = self.found.setdefault((*map(float, corners), person), set())
        if int(action) in labels:
            self.skipped.append("duplicate")
        labels.add(int(action))


def _key_frames(
    notes: Annotations, path: Path, names: dict[int, str]
) -> Iterator[tuple[str, float, str, _Boxes]]:
    """Video, second, the second as it is written, and boxes of every key frame of a CSV of AVA."""
    frames: dict[tuple[str, float], tuple[str, _Boxes]] = {}
    for line, (ident, second, *values) in notes.records(path):
        _, boxes = frames.setdefault((ident, number(second)), (second, _Boxes()))
        if not values:
            boxes.skipped.append("no_box")
        elif len(values) in (5, 6):
            boxes.add(values, names)
        else:
            raise ValueError(f"{len(values) + 2} values in line {line}")
    for (ident, second), (word, boxes) in frames.items():
        yield ident, second, word, boxes


def _key_frame(boxes: _Boxes, called: dict[int, str], at: float, told: dict, **of_row) -> Row:
    """The row of a key frame that is `at` so many seconds of its file."""
    numbers = sorted({label for labels in boxes.found.values() for label in labels})
    found = [
        {"xyxy": [*corners], "label_ids": sorted(labels), "person": person}
        for (*corners, person), labels in boxes.found.items()
    ]
    return Row(
        **of_row,
        start=number(max(0.0, at - AROUND)),
        end=number(at + AROUND),
        labels=distinct(called.get(place, str(place)) for place in numbers),
        more={"keyframe": at, **told, "boxes": found},
    )


def thumos14(notes: Annotations) -> Iterator[Row]:
    """THUMOS14: a text file a class and subset; `Ambiguous` segments are not evaluated.

    Source: mmaction2, tools/data/thumos14.
    """
    classes = thumos14_classes(notes).get("classes", ())
    for path in [*notes.find("*_val.txt"), *notes.find("*_test.txt")] or notes.need("*_val.txt"):
        label, _, split = path.stem.rpartition("_")
        reason = "unknown_label" if classes and label not in classes else None
        reason = "ambiguous" if label == "Ambiguous" else reason
        for line, text in notes.lines(path):
            name, start, end = text.split()
            yield Row(
                source=f"{path.name}:{line}",
                file=f"{name}.mp4",
                id=name,
                start=number(start),
                end=number(end),
                labels=[label],
                split=split,
                reason=reason,
            )


def thumos14_classes(notes: Annotations) -> dict:
    """The classes of `Class Index_Detection.txt`, in its order."""
    found = [
        line.split()[-1] for path in notes.find("Class Index*.txt") for _, line in notes.lines(path)
    ]
    return {"classes": found} if found else {}


def charades_sta(notes: Annotations) -> Iterator[Row]:
    """Charades-STA: lines `ID start end##sentence`, split at the first ##.

    How long a video is stands in `Charades_v1_*.csv` alone, and is read where that is given, too.
    Source: jiyanggao/TALL; copies in Alvin-Zeng/DRN.
    """
    lengths = {}
    for path in notes.find("Charades_v1_train.csv", "Charades_v1_test.csv"):
        for _, row in notes.table(path, "id", "length"):
            lengths[row["id"]] = number(row["length"])
    for path in notes.need("charades_sta_train.txt", "charades_sta_test.txt"):
        for line, text in notes.lines(path):
            head, marked, sentence = text.partition("##")
            if not marked:
                raise ValueError("there is no ##")
            ident, start, end = head.split()
            sentence = sentence.strip()
            yield Row(
                source=f"{path.name}:{line}",
                file=f"Charades_v1_480/{ident}.mp4",
                id=ident,
                start=number(start),
                end=number(end),
                texts=[sentence] if sentence else [],
                split=path.stem.rpartition("_")[2],
                seconds=lengths.get(ident),
                reason=None if sentence else "empty_text",
            )

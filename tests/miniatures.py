"""Made-up miniatures of the benchmarks: official files and videos of their form, drawn here.

Every frame says in black and white squares which video it is of and which frame it is, so a test can
answer from what it sees, and finds out whether files, times and annotations were joined rightly.
"""

import argparse
import csv
import io
import json

import numpy as np
import scipy.io
import yaml
from PIL import Image

from vplib import paths
from vplib.data import video
from vplib.data.public import __main__ as command

ROWS, COLUMNS, SQUARE, NUMBER = 4, 5, 8, 8  # NUMBER bits say which video, the others which frame
FPS = 8.0
WORDS = "dog cat run mouse woman building walk eat beast pet mule ape".split()


def frames_of(number, count):
    """Frames of video `number`."""
    bits = ROWS * COLUMNS
    codes = (number << bits - NUMBER) + np.arange(count)
    squares = (codes[:, None] >> np.arange(bits)) & 1
    grey = squares.reshape(count, ROWS, COLUMNS).repeat(SQUARE, 1).repeat(SQUARE, 2)
    return np.repeat((255 * grey.astype(np.uint8))[..., None], 3, 3)


def seen(file, name="clip"):
    """Number of the video and of the frame that a clip begins with, and how many frames it has."""
    frames = video.decode(file, name=name).frames
    first = np.asarray(frames[0]).mean(-1)
    half = SQUARE // 2
    squares = first[half::SQUARE, half::SQUARE] > 127
    code = int((squares.ravel() << np.arange(ROWS * COLUMNS)).sum())
    return code >> ROWS * COLUMNS - NUMBER, code & (1 << ROWS * COLUMNS - NUMBER) - 1, len(frames)


def written(name, folder):
    """A miniature, and the folder that the command makes of it."""
    made, out = Made(name, folder / name), folder / "out" / name
    given = dict(name=name, annotations=[made.notes], videos=made.videos, dry_run=False)
    command._run(argparse.Namespace(**given, out=out))
    return made, out


def section(name, out, resolution):
    """The section `data` of a configuration that reads such a folder."""
    conf = yaml.safe_load((paths.CONF / "data" / f"{name}.yaml").read_text())
    shared = yaml.safe_load((paths.CONF / "benchmark.yaml").read_text())
    return shared | conf | {"root": str(out), "resolution": resolution}


class Made:
    """A miniature below `folder`: `annotations/`, `videos/`, and in `plan` what is true of each
    video, by its number.
    """

    def __init__(self, name, folder):
        self.name, self.notes, self.videos = name, folder / "annotations", folder / "videos"
        self.plan = []
        globals()[f"_{name}"](self)

    def draw(self, file, count=16, fps=FPS, **true):
        """Draws the next video."""
        number = len(self.plan)
        path = self.videos / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video.encode(frames_of(number, count), fps))
        self.plan.append({"file": file, "fps": fps, "count": count, **true})

    def write(self, file, content):
        """An annotation file: text, rows of a CSV, or anything else as JSON."""
        path = self.notes / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list) and file.endswith((".csv", ".txt")):
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows(content)
            content = table.getvalue()
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    def lines(self, file, lines):
        self.write(file, "".join(f"{line}\n" for line in lines))


def _youtube(number):
    return f"-_{number:09d}"


def _split(number, test="val"):
    """Of 16 videos of four classes the first four are of train."""
    return "train" if number < 4 else test


# --- classification ------------------------------------------------------------------------------


def _kinetics400(made, *, kinds=("hurling (sport)", "zumba", "air drumming", "yoga")):
    rows = {"train": [], "val": []}
    for number in range(16):
        split, label = _split(number), kinds[number % 4]
        name = f"{_youtube(number)}_{number:06d}_{number + 10:06d}"
        made.draw(f"{split}/{name}.mp4", labels=[label])
        told = [label, _youtube(number), number, number + 10, split]
        rows[split].append(told + [0] * (made.name == "kinetics400"))
    header = ["label", "youtube_id", "time_start", "time_end", "split"]
    header += ["is_cc"] * (made.name == "kinetics400")
    for split, of in rows.items():
        made.write(f"{split}.csv", [header, *of])


_kinetics600 = _kinetics400


def _moments_in_time(made):
    kinds, rows = ("adult+female+singing", "clapping", "raining", "yawning"), {}
    for number in range(16):
        folder = {"train": "training", "val": "validation"}[_split(number)]
        label = kinds[number % 4]
        made.draw(f"{folder}/{label}/yt-{number}.x.mp4", labels=[label])
        rows.setdefault(folder, []).append([f"{label}/yt-{number}.x.mp4", label, 3, 0])
    for folder, of in rows.items():
        made.write(f"{folder}Set.csv", of)
    made.lines("moments_categories.txt", [f"{kind},{place}" for place, kind in enumerate(kinds)])


def _ssv2(made):
    kinds = {"Moving something up": "[something]", "Lifting something": "[something]"}
    kinds |= {"Pushing something": "[something]", "Holding something next to the wall": ""}
    entries = {"train": [], "val": []}
    for number in range(16):
        label = [*kinds][number % 4]
        made.draw(f"20bn-something-something-v2/{number + 70}.webm", labels=[label])
        template = label.replace("something", "[something]", 1)
        told = {"id": str(number + 70), "label": f"{label.lower()} {number}", "template": template}
        entries[_split(number)].append(told | {"placeholders": ["tea"]})
    start = "something-something-v2-"
    made.write(f"{start}labels.json", {label: str(place) for place, label in enumerate(kinds)})
    made.write(f"{start}train.json", entries["train"])
    made.write(f"{start}validation.json", entries["val"])


def _diving48(made):
    words = [["Back", "15som", "05Twis", "FREE"], ["Back", "25som", "NoTwis", "PIKE"]]
    words += [["Forward", "Dive", "NoTwis", "TUCK"], ["Inward", "Dive", "NoTwis", "PIKE"]]
    entries = {"train": [], "test": []}
    for number in range(16):
        name, label = f"-dive_{number:05d}", number % 4
        made.draw(f"rgb/{name}.mp4", labels=["+".join(words[label])])
        told = {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 16}
        entries[_split(number, "test")].append(told)
    made.write("Diving48_vocab.json", words)
    for split, of in entries.items():
        made.write(f"Diving48_V2_{split}.json", of)


CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


def _charades(made):
    names = {f"c00{place}": word for place, word in enumerate(("Sit", "Stand", "Read", "Eat"))}
    rows = {"train": [], "test": []}
    for number in range(16):
        labels = sorted({f"c00{number % 4}", f"c00{number // 4}"})
        made.draw(f"Charades_v1_480/A{number:04d}.mp4", labels=labels)
        actions = ";".join(f"{label} 0.0 1.5" for label in labels)
        told = [f"A{number:04d}", "X", "Den", 6, 7, "Yes", "s", "o", "One, two.;Three."]
        rows[_split(number, "test")].append([*told, actions, "2.0"])
    for split, of in rows.items():
        made.write(f"Charades_v1_{split}.csv", [CHARADES.split(","), *of])
    made.lines("Charades_v1_classes.txt", [f"{key} {name}" for key, name in names.items()])


# --- localisation --------------------------------------------------------------------------------


def _activitynet13(made):
    kinds, database = ("Long jump", "Archery", "Surfing", "Ironing"), {}
    for number in range(12):
        events = [(1.0 + number % 3, 3.5 + number % 3, kinds[number % 4])]
        events.append((8.0 - number % 2, 9.5, kinds[(number + number // 4) % 4]))
        made.draw(f"v_{_youtube(number)}.mp4", count=80, events=events)
        database[_youtube(number)] = {
            "duration": 10.0,
            "subset": "training" if number < 4 else "validation",
            "annotations": [{"label": label, "segment": [a, b]} for a, b, label in events],
        }
    nodes = [{"nodeName": kind, "parentName": "Sports"} for kind in kinds]
    nodes.append({"nodeName": "Sports", "parentName": None})
    told = {"version": "VERSION 1.3", "database": database, "taxonomy": nodes}
    made.write("activity_net.v1-3.min.json", told)


PBTXT = {"sit": 11, "run/jog": 10, "swim": 13, "fall down": 5}


def _lists_of_ava(made):
    start = "ava_action_list_v2.2"
    for name, key, of in (
        (f"{start}.pbtxt", "label", PBTXT),
        # The benchmark leaves some out.
        (f"{start}_for_activitynet_2019.pbtxt", "item", dict([*PBTXT.items()][:3])),
    ):
        number = {"label": "label_id", "item": "id"}[key]
        items = (f'{key} {{\n  name: "{word}"\n  {number}: {n}\n}}' for word, n in of.items())
        made.lines(name, items)


def _people(number, frame):
    """Two boxes of a key frame with an action each."""
    numbers = [*PBTXT.values()][:3]
    places = (0.1, 0.2, 0.4, 0.6), (0.5, 0.3, 0.9, 0.8)
    return [(place, [numbers[(number + frame + k) % 3]]) for k, place in enumerate(places)]


def _ava22(made):
    rows = {"train": [], "val": []}
    for number in range(2):
        split = ("train", "val")[number]
        keys = range(902, 914) if number else (902,)
        # A file of 15 minutes, a frame a second, cut from 900 s of the film on.
        boxes = {float(second - 900): _people(number, second) for second in keys}
        made.draw(f"{_youtube(number)}.mkv", count=900, fps=1.0, boxes=boxes)
        for second in keys:
            for person, (place, actions) in enumerate(_people(number, second)):
                told = [_youtube(number), f"{second:04d}", *place]
                rows[split] += [[*told, action, person] for action in actions]
    rows["val"] += [[_youtube(1), "0920", 0.1, 0.1, 0.9, 0.9, 5, 0], [_youtube(1), "0921"]]
    made.plan[1]["boxes"][20.0] = [((0.1, 0.1, 0.9, 0.9), [5])]
    for split, of in rows.items():
        made.write(f"ava_{split}_v2.2.csv", of)
    made.write("ava_val_excluded_timestamps_v2.2.csv", [[_youtube(1), "0990"]])
    _lists_of_ava(made)


def _ava_kinetics(made):
    rows = {"train": [], "val": []}
    for number in range(14):
        split = "train" if number < 2 else "val"
        boxes = _people(number, 0)
        made.draw(f"{_youtube(number)}_000010_000020.mp4", count=80, boxes={5.0: boxes})
        for place, actions in boxes:
            rows[split] += [[_youtube(number), 15.0, *place, action] for action in actions]
    for split, of in rows.items():
        made.write(f"kinetics_{split}_v1.0.csv", of)
    _lists_of_ava(made)


# --- retrieval, captions -------------------------------------------------------------------------


def _sentence(number, place=0):
    """Four words and more, of which other videos and places have none."""
    return " ".join(
        f"{word}{number}{'abc'[place]}" for word in ("a", "green", "thing", "moves", "on")
    )


def _msrvtt(made):
    videos, sentences = [], []
    for number in range(8):
        made.draw(f"video{number}.mp4", texts=[_sentence(number)], count=8)
        split = "train" if number < 2 else "test"
        told = {"video_id": f"video{number}", "split": split, "start time": 3.0, "end time": 9.0}
        videos.append(told | {"category": 1, "url": "u", "id": number})
        sentences.append(
            {"video_id": f"video{number}", "sen_id": number, "caption": _sentence(number)}
        )
    made.write("MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": sentences})
    header = ["key", "vid_key", "video_id", "sentence"]
    rows = [[f"ret{n}", f"msr{n}", f"video{n}", _sentence(n)] for n in range(2, 8)]
    made.write("MSRVTT_JSFUSION_test.csv", [header, *rows])
    made.lines("MSRVTT_train.9k.csv", ["video_id", "video0", "video1"])


def _vatex(made):
    entries = []
    for number in range(6):
        name = f"{_youtube(number)}_000001_000011"
        texts = [_sentence(number, place) for place in (0, 0)]
        made.draw(f"{name}.mp4", texts=texts, count=8)
        entries.append({"videoID": name, "enCap": texts})
    made.write("vatex_public_test_english_v1.1.json", entries)


def _activitynet_captions(made):
    told = {"train": {}, "val_1": {}, "val_2": {}}
    for number in range(8):
        texts = [_sentence(number, place) for place in (0, 1)]
        made.draw(f"v_{_youtube(number)}.mp4", count=32, texts=[" ".join(texts)])
        entry = {"duration": 4.0, "timestamps": [[0.0, 2.0], [1.5, 9.0]]}
        entry["sentences"] = [f" {text}" for text in texts]
        told["train" if number < 2 else "val_1"][f"v_{_youtube(number)}"] = entry
    told["val_2"] = told["val_1"]
    for name, of in told.items():
        made.write(f"{name}.json", of)


def _charades_sta(made):
    lines = {"train": [], "test": []}
    rows = [CHARADES.split(",")]
    for number in range(5):
        said = [(0.5 + place, 2.0 + place, _sentence(number, place)) for place in range(3)]
        made.draw(f"Charades_v1_480/A{number:04d}.mp4", count=40, events=said)
        split = "train" if number < 1 else "test"
        lines[split] += [f"A{number:04d} {a} {b}##{text}." for a, b, text in said]
        rows.append([f"A{number:04d}", *[""] * 9, "5.0"])
    for split, of in lines.items():
        made.lines(f"charades_sta_{split}.txt", of)
    made.write("Charades_v1_test.csv", rows)


def _youcook2(made):
    database = {}
    for number in range(4):
        subset = "training" if number < 1 else "validation"
        steps = [(place, 2 + place, _sentence(number, place)) for place in range(2)]
        made.draw(f"raw_videos/{subset}/113/{_youtube(number)}.mkv", count=40, events=steps)
        told = [
            {"segment": [a, b], "id": n, "sentence": text} for n, (a, b, text) in enumerate(steps)
        ]
        database[_youtube(number)] = {
            **{"duration": 5.0, "subset": subset, "recipe_type": "113", "annotations": told}
        }
    made.write("youcookii_annotations_trainval.json", {"database": database})


# --- questions -----------------------------------------------------------------------------------


def _msrvtt_qa(made):
    stem = {"msrvtt_qa": "video{}.mp4", "msvd_qa": "vid{}.avi"}[made.name]
    entries = {"train": [], "test": []}
    for number in range(1, 10):
        qa = {f"what is {k}?": WORDS[(number + 3 * k) % 6] for k in range(2)}
        if made.name == "msvd_qa":  # files under the names of MSVD
            stem = f"{_youtube(number)}_{number}_9.avi"
        made.draw(f"video/{stem.format(number)}", count=8, qa=qa)
        for question, answer in qa.items():
            split = "train" if number < 4 else "test"
            told = {"id": 10 * number, "video_id": number, "question": question, "answer": answer}
            entries[split].append(told | {"category_id": 1} if "rvtt" in made.name else told)
    for split, of in entries.items():
        made.write(f"{split}_qa.json", of)
    if made.name == "msvd_qa":
        made.lines("youtube_mapping.txt", [f"{_youtube(n)}_{n}_9 vid{n}" for n in range(1, 10)])


_msvd_qa = _msrvtt_qa


def _nextqa(made):
    start = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type"]
    several, free, places = [], [], {}
    for number in range(8):
        video_id, options = f"{number:03d}", [f"{word} {number}" for word in WORDS[:5]]
        right = number % 5
        answer = WORDS[number]
        qa = {"why does it?": options[right], "what is it?": answer}
        made.draw(f"NExTVideo/0007/{video_id}.mp4", count=8, qa=qa)
        places[video_id] = f"0007/{video_id}"
        told = [video_id, 8, 40, 32]
        several.append([*told, "why does it?", right, 3, "CW", *options])
        free.append([*told, "what is it?", answer, 4, "DO"])
    made.write("nextqa/val.csv", [start + [f"a{n}" for n in range(5)], *several])
    made.write("nextoe/test.csv", [start, *free])
    made.write("nextoe/train.csv", [start, *free[:4]])
    made.write("nextqa/map_vid_vidorID.json", places)
    made.lines("atp-hard-ct4.txt", range(1, 8))  # the first is easy


# --- science -------------------------------------------------------------------------------------


def _fly_vs_fly(made):
    kinds = ("lunge", "wing_threat", "tussle")
    for number in range(2):
        runs = {kind: [[20 * k + 5, 20 * k + 15 + number, 0]] for k, kind in enumerate(kinds)}
        frames = [[kind for kind, [[a, b, _]] in runs.items() if a <= t < b] for t in range(64)]
        movie = f"movie{number + 1}"
        place = f"Aggression/Aggression/{movie}"
        made.draw(f"{place}/{movie}.avi", count=64, frames=frames)
        bouts = np.empty((2, 3), object)
        bouts[0] = [np.array(of) for of in runs.values()]
        bouts[1] = [np.empty((0, 3))] * 3
        (made.notes / place).mkdir(parents=True)
        of_file = {"behs": np.array(kinds, object), "bouts": bouts}
        scipy.io.savemat(made.notes / place / f"{movie}_actions.mat", of_file)


def _calms21(made):
    vocabulary = {"attack": 0, "investigation": 1, "mount": 2, "other": 3}
    told = {"train": {}, "test": {}}
    for number, mouse in enumerate((1, 71, 72)):
        part = "train" if mouse < 70 else "test"
        labels = [(t + number) // 8 % 4 for t in range(64)]
        name = f"mouse{mouse:03d}_task1_annotator1"
        words = [*vocabulary]
        frames = [[words[label]] for label in labels]
        made.draw(f"task1_videos_mp4/{part}/{name}.mp4", count=64, frames=frames)
        entry = {"keypoints": [], "scores": [], "annotations": labels}
        told[part][f"task1/{part}/{name}"] = entry | {"metadata": {"vocab": vocabulary}}
    for part, of in told.items():
        made.write(f"calms21_task1_{part}.json", {"annotator-id_0": of})


def _crim13(made):
    kinds = ("other", "approach", "attack")
    for number in range(4):
        name = f"mouse{number // 2}_{('side', 'top')[number % 2]}"
        runs = [(10 * k, 10 * k + 10, kinds[(k + number) % 3]) for k in range(6)]
        frames = [[next(kind for a, b, kind in runs if a <= t < b)] for t in range(60)]
        made.draw(f"{name}.avi", count=60, frames=frames)
        rows = [f"\t{a + 1}\t{b}\t{kind}" for a, b, kind in runs]
        start = ["Caltech Behavior Annotator - Annotation File", "", "Configuration file:"]
        start += [f"{kind}\t{kind[0]}" for kind in kinds]
        made.lines(f"{name}.txt", [*start, "", "S1: start end type", "-" * 29, *rows, ""])


def _chimpact(made):
    names = {1: "moving", 2: "climbing", 3: "resting"}
    for number in range(10):
        clip = f"Azibo_{number}"
        boxes = {}
        images, annotations = [], []
        for key in range(2):
            images.append(
                {"id": key, "file_name": f"{clip}/{key:06d}.jpg", "width": 640, "height": 480}
            )
            labels = [1 + (number + key) % 3]
            boxes[float(10 * key)] = [((0.1, 0.1, 0.3, 0.3), labels)]
            box = {"image_id": key, "bbox": [64, 48, 128, 96], "bbox_id": 4}
            annotations.append(box | {"behaviors": [label - 1 for label in labels]})
        made.draw(f"videos_full/{clip}.mp4", count=16, boxes=boxes)
        made.write(f"labels/{clip}.json", {"images": images, "annotations": annotations})
    items = (f'item {{\n  name: "{name}"\n  id: {number}\n}}' for number, name in names.items())
    made.lines("action_list.txt", items)
    splits = {"val": [], "test": [f"Azibo_{n}" for n in range(2, 10)]}
    made.write("split_names.json", splits)


def _kabr(made):
    classes = {"Walk": 0, "Graze": 1, "Head Up": 3}
    lines = {"train": [], "val": []}
    for number in range(5):
        kinds = [[*classes][(number + k) % 3] for k in range(2)]
        frames = [[kinds[t // 80]] for t in range(160)]
        ident, split = f"ZG{number:04d}.1", "train" if number < 1 else "val"
        folder = made.videos / f"dataset/image/{ident}"
        folder.mkdir(parents=True)
        for frame, picture in enumerate(frames_of(number, 160), 1):
            Image.fromarray(picture).save(folder / f"{frame}.jpg", quality=95)
            label = classes[frames[frame - 1][0]]
            lines[split].append(f"{ident} {number} {frame} {ident}/{frame}.jpg {label}")
        made.plan.append({"file": f"dataset/image/{ident}", "fps": 30.0, "frames": frames})
    for split, of in lines.items():
        made.lines(
            f"annotation/{split}.csv", ["original_vido_id video_id frame_id path labels", *of]
        )
    made.write("annotation/classes.json", classes)

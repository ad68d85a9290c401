"""Benchmarks of classification: what happens in a clip that is cut already."""

from collections.abc import Iterator

from vplib.data.public.annotations import AnnotationError, Annotations
from vplib.data.public.rows import Row, distinct, number, part, plain, whole


def kinetics(notes: Annotations) -> Iterator[Row]:
    """Kinetics-400, -600: CSV with a header; the labels of some test files are withheld.

    Source: activitynet/ActivityNet, cvdfoundation/kinetics-dataset. Raises AnnotationError for more
    classes than there are.
    """
    seen, classes = set(), int(notes.name.removeprefix("kinetics"))
    val = notes.find("val.csv") or notes.find("validate.csv")
    paths = [*notes.find("train.csv"), *val, *notes.find("test.csv")]
    for path in paths or notes.need("train.csv", "val.csv", "validate.csv", "test.csv"):
        for line, row in notes.table(path, "youtube_id", "time_start", "time_end"):
            ident, label = row["youtube_id"], row.get("label", "")
            start, end = whole(row["time_start"]), whole(row["time_end"])
            split = part(row.get("split") or path.stem)
            seen |= {label} - {""}
            if len(seen) > classes:
                raise AnnotationError(
                    f"{notes.place}: this is class {len(seen)} and {notes.name} has {classes}; give "
                    f"the official annotation files of {notes.name}."
                )
            name = f"{ident}_{start:06d}_{end:06d}"
            yield Row(
                source=f"{path.name}:{line}",
                file=f"{split}/{name}.mp4",
                names=(name,),
                id=ident,
                texts=[label] if label else [],
                labels=[label] if label else [],
                split=split,
                more={"youtube_start": start, "youtube_end": end},
                reason=None if label else "no_label",
            )


def kinetics_classes(notes: Annotations) -> dict:
    """The labels of train, sorted: the files number none."""
    labels = {
        row["label"]
        for path in notes.find("train.csv")
        for _, row in notes.table(path, "label", "youtube_id")
        if row["label"]
    }
    return {"classes": sorted(labels)} if labels else {}


def moments_in_time(notes: Annotations) -> Iterator[Row]:
    """Moments in Time: CSV without a header of `label/file`, label, positive and negative answers.

    A text is the label with blanks for its + (our choice). Source: its README; mmaction2.
    """
    classes = {*moments_classes(notes).get("classes", ())}
    for path in notes.need("trainingSet.csv", "validationSet.csv"):
        folder = path.stem.removesuffix("Set")
        for line, (file, label, positive, negative) in notes.records(path):
            name = file.rpartition(".")[0]
            reason = "unknown_label" if classes and label not in classes else None
            yield Row(
                source=f"{path.name}:{line}",
                file=f"{folder}/{file}",
                names=(f"{folder}/{name}",),
                id=name.rpartition("/")[2],
                texts=[label.replace("+", " ")] if label else [],
                labels=[label] if label else [],
                split=part(folder),
                more={"positive": whole(positive), "negative": whole(negative)},
                reason=reason if label else "no_label",
            )


def moments_classes(notes: Annotations) -> dict:
    """The classes of `moments_categories.txt`, whose numbers begin at 0."""
    found = {}
    for path in notes.find("moments_categories.txt"):
        for _, line in notes.lines(path):
            label, _, place = line.rpartition(",")
            found[whole(place)] = label
    return {"classes": [found[place] for place in sorted(found)]} if found else {}


def ssv2(notes: Annotations) -> Iterator[Row]:
    """Something-Something v2: the text says what is seen, the template without brackets the class.

    Source: facebookresearch/SlowFast, slowfast/datasets/ssv2.py.
    """
    numbers = {label: place for place, label in enumerate(ssv2_classes(notes)["classes"])}
    answers = {}
    for path in notes.find("test-answers.csv"):
        answers |= {ident: label for _, (ident, label) in notes.records(path, ";")}
    for word in ("train", "validation", "test"):
        official = f"something-something-v2-{word}.json"
        for path in notes.find(official) or notes.find(f"{word}.json"):
            for entry in notes.json(path):
                ident, split = str(entry["id"]), part(word)
                text = plain(entry.get("label"))
                label = entry.get("template", "").replace("[", "").replace("]", "")
                label = label.strip() or answers.get(ident, "")
                reason = None if label in numbers else "unknown_label" if label else "no_label"
                yield Row(
                    source=f"{split} {ident}",
                    file=f"20bn-something-something-v2/{ident}.webm",
                    id=ident,
                    texts=[text] if text else [],
                    labels=[label] if label else [],
                    split=split,
                    more={} if reason else {"label_index": numbers[label]},
                    reason=reason,
                )


def ssv2_classes(notes: Annotations) -> dict:
    """The classes by their number."""
    paths = notes.find("something-something-v2-labels.json")
    for path in paths or notes.need("something-something-v2-labels.json", "labels.json"):
        numbers = notes.json(path)
        return {"classes": sorted(numbers, key=lambda label: int(numbers[label]))}


def diving48(notes: Annotations) -> Iterator[Row]:
    """Diving48 (V2, whose labels are mended): a class is four words. Source: mmaction2."""
    classes = diving48_classes(notes)["classes"]
    for path in notes.need("Diving48_V2_train.json", "Diving48_V2_test.json"):
        for place, entry in enumerate(notes.json(path)):
            name, label = entry["vid_name"], entry.get("label")
            known = label is not None and 0 <= label < len(classes)
            reason = None if known else "no_label" if label is None else "unknown_label"
            yield Row(
                source=f"{path.name} {place}",
                file=f"rgb/{name}.mp4",
                id=name,
                texts=[classes[label].replace("+", " ")] if known else [],
                labels=[classes[label]] if known else [],
                split=path.stem.rpartition("_")[2],
                more={"label_index": label, "frames": entry["end_frame"] - entry["start_frame"]},
                reason=reason,
            )


def diving48_classes(notes: Annotations) -> dict:
    """Take-off, somersault, twist and position of each class, joined as mmaction2 does."""
    [path, *_] = notes.need("Diving48_vocab.json")
    return {"classes": ["+".join(words) for words in notes.json(path)]}


def charades(notes: Annotations) -> Iterator[Row]:
    """Charades: a row a video with all its actions, also none, and when each of them happens.

    Source: its README; gsig/PyVideoResearch, datasets/charades.py.
    """
    names = charades_classes(notes).get("names", {})
    for path in notes.need("Charades_v1_train.csv", "Charades_v1_test.csv"):
        for line, row in notes.table(path, "id", "descriptions", "actions", "length"):
            source, length, segments, labels, skipped = f"{path.name}:{line}", None, [], [], []
            ident = row["id"]
            if row["length"]:
                length = number(row["length"])
            of_video = {"file": f"Charades_v1_480/{ident}.mp4", "id": ident}
            of_video["split"] = path.stem.rpartition("_")[2]
            for action in filter(None, row["actions"].split(";")):
                label, start, end = action.split()
                start, end = number(start), number(end)
                reason = None
                if names and label not in names:
                    reason = "unknown_label"
                elif start >= end:
                    reason = "empty_segment"
                elif length is not None and start >= length:
                    reason = "outside_video"
                if reason:
                    skipped.append(Row(**of_video, source=f"{source} {action}", reason=reason))
                if reason != "unknown_label":
                    labels.append(label)
                if not reason:
                    end = end if length is None else min(end, length)
                    called = {"name": names[label]} if names else {}
                    segments.append({"label": label, **called, "start": start, "end": end})
            yield Row(
                **of_video,
                source=source,
                texts=[*filter(None, map(str.strip, row["descriptions"].split(";")))],
                labels=distinct(labels),
                more={"duration": length, "segments": segments},
            )
            yield from skipped


def charades_classes(notes: Annotations) -> dict:
    """The classes in their order, and what they are called."""
    names = {}
    for path in notes.find("Charades_v1_classes.txt"):
        names |= {line.partition(" ")[0]: line.partition(" ")[2] for _, line in notes.lines(path)}
    return {"classes": [*names], "names": names} if names else {}

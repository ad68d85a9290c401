"""Benchmarks of retrieval and captioning: what people said of clips, or of parts of videos."""

from collections.abc import Iterator

from vplib.data.public.annotations import Annotations
from vplib.data.public.rows import CUT_CLIP, Row, number, part, plain, whole


def msrvtt(notes: Annotations) -> Iterator[Row]:
    """MSR-VTT: a row a video with its sentences in the order of `sen_id`.

    The files are cut already: the times in them are those of YouTube and are not used.
    Source: ArrowLuo/CLIP4Clip; albanie/collaborative-experts.
    """
    parts = notes.find("train_val_videodatainfo.json", "test_videodatainfo.json")
    whole_set = ("MSRVTT_data.json", "*videodatainfo*.json")
    for path in parts or notes.find(*whole_set[:1]) or notes.need(*whole_set):
        told = notes.json(path)
        said: dict[str, list[tuple[int, str]]] = {video["video_id"]: [] for video in told["videos"]}
        for one in told["sentences"]:
            said.setdefault(one["video_id"], []).append((one["sen_id"], plain(one["caption"])))
        for video in told["videos"]:
            ident = video["video_id"]
            of_video = {"file": f"{ident}.mp4", "id": ident, "split": part(video["split"])}
            sentences = sorted(said.pop(ident))
            for place, text in sentences:
                if not text:
                    yield Row(**of_video, source=f"sen_id {place}", reason="empty_text")
            texts = [text for _, text in sentences if text]
            more = {"category": video["category"]} if "category" in video else {}
            reason = None if texts else "no_text"
            yield Row(**of_video, source=ident, texts=texts, more=more, reason=reason)
        for ident, sentences in said.items():  # of no video of the list
            for place, _ in sentences:
                yield Row(source=f"sen_id {place}", file="", id=ident, reason="missing_video")


def msrvtt_1k_a(notes: Annotations) -> dict:
    """The split 1K-A: videos of train, and video and sentence of each query of its test."""
    found = {}
    for path in notes.find("MSRVTT_train.9k.csv")[:1]:
        found["train"] = [row["video_id"] for _, row in notes.table(path, "video_id")]
    for path in [] if found else notes.find("train_list_jsfusion.txt"):
        found["train"] = [line for _, line in notes.lines(path)]
    for path in notes.find("MSRVTT_JSFUSION_test.csv"):
        rows = notes.table(path, "video_id", "sentence")
        found["test"] = [[row["video_id"], row["sentence"]] for _, row in rows]
    return {"split_1k_a": found} if found else {}


def vatex(notes: Annotations) -> Iterator[Row]:
    """VATEX: ten English and ten Chinese captions a clip, of which the last five are translations.

    Source: eric-xw/Video-guided-Machine-Translation.
    """
    splits = {
        "vatex_training_v1.0.json": "train",
        "vatex_validation_v1.0.json": "val",
        "vatex_public_test_english_v1.1.json": "test",
        "vatex_private_test_without_annotations.json": "test",
    }
    for path in notes.need(*splits):
        for entry in notes.json(path):
            ident = entry["videoID"]
            youtube, start, end = CUT_CLIP.fullmatch(ident).groups()
            texts, chinese = (
                [*filter(None, map(plain, entry.get(key, ())))] for key in ("enCap", "chCap")
            )
            yield Row(
                source=ident,
                file=f"{ident}.mp4",
                id=ident,
                texts=texts,
                split=splits[path.name],
                more={
                    "youtube_id": youtube,
                    "youtube_start": int(start),
                    "youtube_end": int(end),
                    **({"texts_zh": chinese} if chinese else {}),
                },
                reason=None if texts else "empty_text" if entry.get("enCap") else "no_text",
            )


def activitynet_captions(notes: Annotations) -> Iterator[Row]:
    """ActivityNet Captions: a row a sentence; `val_1` and `val_2` are two sets of references.

    Source: ranjaykrishna/densevid_eval.
    """
    told = {}
    for path in notes.need("train.json", "val_1.json", "val_2.json"):
        told[path.stem] = notes.json(path)
        for ident, video in told[path.stem].items():
            of_video = _of_activitynet(path.stem, ident) | {"seconds": video.get("duration")}
            pairs = zip(video["timestamps"], video["sentences"], strict=True)
            for place, ((start, end), sentence) in enumerate(pairs, 1):
                text = plain(sentence)
                yield Row(
                    **of_video,
                    source=f"{path.stem} {ident} {place}",
                    start=number(start),
                    end=number(end),
                    texts=[text] if text else [],
                    reason=None if text else "empty_text",
                )
    for path in notes.find("train_ids.json", "val_ids.json", "test_ids.json"):
        split = path.stem.removesuffix("_ids")
        known = {
            ident for name, videos in told.items() if name.startswith(split) for ident in videos
        }
        # Without the captions of a split nothing is known of its videos.
        if known or split == "test":
            for ident in notes.json(path):
                if ident not in known:
                    source = f"{split} {ident}"
                    yield Row(**_of_activitynet(split, ident), source=source, reason="no_text")


def _of_activitynet(split: str, ident: str) -> dict:
    return {
        "file": f"{ident}.mp4",
        "names": (ident, ident.removeprefix("v_")),
        "id": ident,
        "split": split,
        "sources": (f"{split} {ident}",),
    }


def activitynet_paragraphs(notes: Annotations) -> dict:
    """All sentences of each video as one text, also those whose segment is empty."""
    found = {
        path.stem: {
            ident: " ".join(filter(None, map(plain, video["sentences"])))
            for ident, video in notes.json(path).items()
        }
        for path in notes.find("train.json", "val_1.json", "val_2.json")
    }
    return {"paragraphs": found}


def youcook2(notes: Annotations) -> Iterator[Row]:
    """YouCook2: a row a step of a recipe; the sentences of the test part are not published.

    Source: antoyang/VidChapters, preproc/youcook.py; LuoweiZhou/ProcNets-YouCook2.
    """
    official = ("youcookii_annotations_trainval*.json", "youcookii_annotations_test*.json")
    if not notes.find(*official):
        yield from _youcook2_validation(notes)
        return
    for path in notes.need(*official):
        for ident, video in notes.json(path)["database"].items():
            kind, subset = str(video["recipe_type"]), video["subset"]
            of_video = {
                "file": f"raw_videos/{subset}/{kind}/{ident}.mp4",
                "names": (f"{subset}/{kind}/{ident}", ident),
                "id": ident,
                "labels": [kind],
                "split": part(subset),
                "seconds": video.get("duration"),
                "sources": (ident,),
            }
            steps = [step for step in video.get("annotations", ()) if "sentence" in step]
            for step in steps:
                start, end = map(number, step["segment"])
                text = plain(step["sentence"])
                yield Row(
                    **of_video,
                    source=f"{ident} {step['id']}",
                    start=start,
                    end=end,
                    texts=[text] if text else [],
                    reason=None if text else "empty_text",
                )
            if not steps:
                yield Row(**of_video, source=ident, reason="no_text")


def _youcook2_validation(notes: Annotations) -> Iterator[Row]:
    """The list of MIL-NCE, where the end stands before the start."""
    for path in notes.need("validation_youcook.csv", "youcookii_annotations_trainval*.json"):
        for line, row in notes.table(path, "end", "start", "task", "text", "video_id"):
            ident, text = row["video_id"], row["text"]
            yield Row(
                source=f"{path.name}:{line}",
                file=f"{ident}.mp4",
                id=ident,
                start=number(row["start"]),
                end=number(row["end"]),
                texts=[text] if text else [],
                labels=[row["task"]],
                split="val",
                reason=None if text else "empty_text",
            )


def msvd(notes: Annotations) -> Iterator[Row]:
    """MSVD: a row a clip with its English captions; the clips are cut already.

    Source: albanie/collaborative-experts, misc/datasets/msvd; ArrowLuo/CLIP4Clip.
    """
    splits = {}
    for split in ("train", "val", "test"):
        for path in notes.find(f"{split}_list.txt"):
            splits |= {line: split for _, line in notes.lines(path)}
    clips: dict[str, dict] = {}
    for path in notes.need("MSR Video Description Corpus.csv", "video_corpus.csv")[:1]:
        columns = ("VideoID", "Start", "End", "Language", "Description")
        for line, row in notes.table(path, *columns):
            start, end = whole(row["Start"]), whole(row["End"])
            name, text, source = (
                f"{row['VideoID']}_{start}_{end}",
                row["Description"],
                f"csv line {line}",
            )
            english = row["Language"] == "English"
            if not english or not text:
                reason = "empty_text" if english else "not_english"
                yield Row(source=source, file="", id=name, split=splits.get(name), reason=reason)
                continue
            clip = clips.setdefault(name, {"start": start, "end": end, "texts": [], "sources": []})
            clip["texts"].append(text)
            clip["sources"].append(source)
    for name, clip in clips.items():
        yield Row(
            source=clip["sources"][0],
            sources=(*clip["sources"],),
            file=f"YouTubeClips/{name}.avi",
            id=name,
            texts=clip["texts"],
            split=splits.get(name),
            more={"youtube_start": clip["start"], "youtube_end": clip["end"]},
        )

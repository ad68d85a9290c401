"""Corpora for pretraining: clips of YouTube and stock videos with text of many kinds.

Forms, sources and what is unknown about each: `reports/published/annotations.csv` and `data_cards/`.
"""

import re
from collections.abc import Iterable, Iterator

from vplib.data import webdataset
from vplib.data.entries import SourceError
from vplib.data.public.annotations import AnnotationError, Annotations
from vplib.data.public.rows import Row, clock, number, plain, youtube_id
from vplib.data.public.videos import Videos
from vplib.data.video import VideoError

WINDOW = 10  # seconds of YT-Temporal-180M that are one clip. Source: our choice, it has none
DURATION = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?")


def internvid(notes: Annotations) -> Iterator[Row]:
    """InternVid: JSON Lines, a clip a line, times as HH:MM:SS.mmm. Source: OpenGVLab/InternVideo."""
    for path in notes.need("*.jsonl"):
        for line, entry in notes.json_lines(path):
            ident, text = str(entry["YoutubeID"]), plain(entry["Caption"])
            scores = {"aesthetic": "Aesthetic_Score", "umt": "UMT_Score"}
            yield Row(
                source=f"line {line}",
                file=f"{ident}.mp4",
                id=ident,
                start=clock(entry["Start_timestamp"]),
                end=clock(entry["End_timestamp"]),
                texts=[text] if text else [],
                split="train",
                more={key: entry[name] for key, name in scores.items() if name in entry},
                reason=None if text else "empty_text",
            )


def videocc(notes: Annotations) -> Iterator[Row]:
    """VideoCC: a CSV of address or id, start, end (microseconds) and caption.

    Whether the release has a header is unknown: a first line whose start is no whole number is one.
    Source: google-research-datasets/videoCC-data.
    """
    for path in notes.need("video_cc_public.csv", "*.csv"):
        header = 0
        for row, (_, (address, start, end, caption)) in enumerate(notes.records(path), 1):
            if row == 1 and not start.isdecimal():
                header = 1
                continue
            ident = youtube_id(address)
            yield Row(
                source=f"row {row - header}",
                file=f"{ident}.mp4",
                id=ident,
                start=number(int(start) / 1e6),
                end=number(int(end) / 1e6),
                texts=[caption] if caption else [],
                split="train",
                reason=None if caption else "empty_text",
            )


def webvid(notes: Annotations) -> Iterator[Row]:
    """WebVid: a CSV with a header; the same id under two folders is two videos.

    Source: m-bain/webvid.
    """
    for path in notes.need("results_*_train.csv", "results_*_val.csv"):
        split = path.stem.rpartition("_")[2]
        columns = ("videoid", "name", "page_dir", "duration")
        for line, row in notes.table(path, *columns):
            name, caption = f"{row['page_dir']}/{row['videoid']}", row["name"]
            told = DURATION.fullmatch(row["duration"])
            hours, minutes, seconds = (int(one or 0) for one in told.groups()) if told else (0,) * 3
            length = 3600 * hours + 60 * minutes + seconds
            yield Row(
                source=f"{path.name}:{line}",
                file=f"videos/{name}.mp4",
                names=(name,),
                id=row["videoid"],
                texts=[caption] if caption else [],
                split=split,
                more={"duration": length} if length else {},
                reason=None if caption else "empty_text",
            )


def howto100m(notes: Annotations) -> Iterator[Row]:
    """HowTo100M: lines of speech recognition, which overlap, in a CSV a video or `caption.json`.

    Where both are given the former count, in the order of `howto100m_videos.csv`: only there is a
    line without text. Source: antoine77340/howto100m, MIL-NCE_HowTo100M.
    """
    listed = []
    for path in notes.find("howto100m_videos.csv"):
        listed = [plain(row["video_path"]) for _, row in notes.table(path, "video_path")]
    order = {file.rpartition(".")[0]: place for place, file in enumerate(listed)}
    others = {"HowTo100M_v1.csv", "howto100m_videos.csv", "task_ids.csv"}
    tables = notes.find("howto100m_captions/*.csv")
    if not tables and not notes.find("caption.json"):
        tables = [path for path in notes.need("*.csv", "caption.json") if path.name not in others]
    for path in sorted(tables, key=lambda path: (order.get(path.stem, len(order)), path.name)):
        rows = [row for _, row in notes.table(path, "start", "end", "text")]
        yield from _spoken(path.stem, ((row["start"], row["end"], row["text"]) for row in rows))
    for path in [] if tables else notes.find("caption.json"):
        for ident, told in notes.entries(path):
            lines = zip(told["start"], told["end"], told["text"], strict=True)
            yield from _spoken(ident, lines)


def _spoken(ident: str, lines: Iterable[tuple]) -> Iterator[Row]:
    count, of_video = (
        0,
        {"file": f"{ident}.mp4", "id": ident, "split": "train", "sources": (ident,)},
    )
    for count, (start, end, told) in enumerate(lines, 1):
        text = plain(told)
        yield Row(
            **of_video,
            source=f"{ident} {count}",
            start=number(start),
            end=number(end),
            texts=[text] if text else [],
            reason=None if text else "empty_text",
        )
    if not count:
        yield Row(**of_video, source=ident, reason="empty_text")


def yt_temporal_180m(notes: Annotations, videos: Videos | None) -> Iterator[Row]:
    """YT-Temporal-180M: JSON Lines, a video a line, with the time of every word and no clips.

    Clips are windows of WINDOW seconds from 0, with the words that begin in them. What is left of
    markup is dropped as MERLOT does, and words at or after the end of the video are.
    Source: rowanz/merlot, data/process.py.
    """
    for path in notes.need("*.jsonl.gz", "*.jsonl"):
        for line, entry in notes.json_lines(path):
            about = entry["info"]
            ident, end = str(about["id"]), about.get("duration")
            file = videos.find(ident) if videos else None
            if file:
                end = videos.seconds(file) or end
            said: dict[int, list[str]] = {}
            for word in entry["subtitles"]:
                text, time = plain(word["word"]), number(word["time"])
                if text and not (text.startswith("&") or text.endswith(";")):
                    if end is None or time < end:
                        said.setdefault(int(time // WINDOW), []).append(text)
            clean = [plain(one["cleanasr"]) for one in entry["denoised"]]
            of_video = {
                "source": f"line {line} ({ident})",
                "file": f"{ident}.mp4",
                "id": ident,
                "split": "train",
                "seconds": end,
            }
            for window, words in sorted(said.items()):
                yield Row(
                    **of_video,
                    sources=(of_video["source"],),
                    start=float(WINDOW * window),
                    end=float(WINDOW * (window + 1)),
                    texts=[" ".join(words)],
                    more={"clean_texts": clean},
                )
            if not said:
                yield Row(**of_video, reason="empty_text")


def video2dataset(notes: Annotations) -> Iterator[Row]:
    """What video2dataset was asked for: a row a clip or a failed line, by key, from its shards.

    They hold the videos, too: `data=webdataset` reads them. Source: iejMac/video2dataset.
    """
    for root in notes.paths:
        try:
            asked = sorted(webdataset.samples(root), key=lambda sample: sample.name)
        except SourceError as error:
            raise AnnotationError(str(error)) from error
        for sample in asked:
            if sample.suffix or (failure := sample.failure()):
                name = sample.name.removesuffix(sample.suffix)
                row = Row(source=name, file=sample.name, id=sample.key)
                if sample.suffix:
                    _said_of(sample, row)
                else:
                    row.reason, _, row.note = failure.partition(": ")
                yield row


def _said_of(sample: webdataset.Sample, row: Row) -> None:
    try:
        fields, row.texts = sample.known()
    except VideoError as error:
        row.reason, row.note = "unreadable_entry", error.problem
        return
    row.reason = None if row.texts else "empty_text"
    if fields.get("clips"):
        [(start, end), *_] = fields["clips"]
        times = [clock(one) if isinstance(one, str) else number(one) for one in (start, end)]
        row.more["clip_in_original"] = times

"""Benchmarks of question answering."""

from collections import Counter
from collections.abc import Iterator

from vplib.data.public.annotations import AnnotationError, Annotations
from vplib.data.public.rows import Row, plain

OFFICIAL = ("train_qa.json", "val_qa.json", "test_qa.json")


def msrvtt_qa(notes: Annotations) -> Iterator[Row]:
    """MSRVTT-QA: questions made by a program, with answers of one word.

    Source: xudejing/video-question-answering.
    """
    for split, entry in _questions(notes):
        ident = f"video{entry['video_id']}"
        yield _question(split, entry, file=f"video/{ident}.mp4", id=ident)


def msvd_qa(notes: Annotations) -> Iterator[Row]:
    """MSVD-QA: as MSRVTT-QA; files are called `vidN.avi` or as in MSVD.

    Source: xudejing/video-question-answering.
    """
    called = {}
    for path in notes.find("youtube_mapping.txt"):
        called |= {line.split()[1]: line.split()[0] for _, line in notes.lines(path)}
    for split, entry in _questions(notes):
        ident = f"vid{entry['video_id']}"
        clip = called.get(ident)
        more = {"msvd_id": clip} if clip else {}
        names = (ident, clip) if clip else (ident,)
        yield _question(split, entry, file=f"video/{ident}.avi", id=ident, names=names, more=more)


def _questions(notes: Annotations) -> Iterator[tuple[str, dict]]:
    for path in notes.need(*OFFICIAL):
        for entry in notes.json(path):
            yield path.stem.partition("_")[0], entry


def _question(split: str, entry: dict, *, more: dict | None = None, **of_row) -> Row:
    told = {"question": plain(entry["question"]), "answer": plain(entry["answer"])}
    reason = None if told["question"] else "empty_text"
    return Row(
        **of_row,
        source=f"{split} id {entry['id']}",
        split=split,
        more={"qid": entry["id"], **told, **(more or {})},
        reason=reason if told["answer"] else "no_label",
    )


def answers_by_count(notes: Annotations) -> dict:
    """The answers of train, the most frequent first: those of a closed vocabulary are chosen there."""
    counts = Counter(
        plain(entry["answer"]) for path in notes.find(OFFICIAL[0]) for entry in notes.json(path)
    )
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return {"train_answers_by_count": [answer for answer in ranked if answer]}


def nextqa(notes: Annotations) -> Iterator[Row]:
    """NExT-QA: multiple choice (columns a0 to a4) and open-ended questions.

    Ids are unique within a video only. Source: doc-doc/NExT-QA, doc-doc/NExT-OE.
    """
    places, more_answers = {}, {}
    for path in notes.find("map_vid_vidorID.json"):
        places |= notes.json(path)
    for path in notes.find("add_reference_answer_test.json"):
        more_answers |= notes.json(path)
    files = [
        (path, _options(notes, path)) for path in notes.need("train.csv", "val.csv", "test.csv")
    ]
    for several, task in ((True, "mc"), (False, "oe")):
        for path in (path for path, options in files if bool(options) == several):
            seen, split = set(), path.stem
            for line, row in notes.table(path, "video", "question", "answer", "qid", "type"):
                video = row["video"]
                place, qid = places.get(video, video), f"{video}_{row['qid']}"
                told = {"task": task, "qid": qid, "question": row["question"], "type": row["type"]}
                answer, reason = row["answer"], None if row["answer"] else "no_label"
                if several:
                    told["options"] = [row[f"a{number}"] for number in range(5)]
                    if answer and (not answer.isdecimal() or int(answer) > 4):
                        reason = "unknown_label"
                    answer = answer if reason else int(answer)
                told["answer"] = answer
                if not several and split == "test" and row["qid"] in more_answers.get(video, {}):
                    others = more_answers[video][row["qid"]]
                    others = [others] if isinstance(others, str) else others
                    told["more_answers"] = [*map(plain, others)]
                reason = "duplicate" if qid in seen else reason
                seen.add(qid)
                yield Row(
                    source=f"{path.parent.name}/{path.name}:{line}",
                    file=f"NExTVideo/{place}.mp4",
                    names=(place, video),
                    id=video,
                    split=split,
                    more=told,
                    reason=reason if row["question"] else "empty_text",
                )


def _options(notes: Annotations, path) -> list[str]:
    """The columns of options of a file of questions."""
    header = notes.header(path)
    if not {"video", "qid"} <= set(header):
        raise AnnotationError(
            f"{path}: the first line has no video and qid; give the official files of nextqa."
        )
    return [name for name in header if name in {f"a{number}" for number in range(5)}]


def atp_hard(notes: Annotations) -> dict:
    """The hard questions of ATP by id: row numbers, from 0, of the multiple choice of val.

    Source: StanfordVL/atp-video-language.
    """
    for path in notes.find("val.csv"):
        if hard := notes.find("atp-hard-ct4.txt") if _options(notes, path) else ():
            rows = [f"{row['video']}_{row['qid']}" for _, row in notes.table(path, "video", "qid")]
            return {"atp_hard": [rows[int(line)] for _, line in notes.lines(hard[0])]}
    return {}

"""What `41_retrieval_zero_shot` and `42_captioning_qa` learn from and ask of videos of one's own and
of public data sets.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from vplib.data import sources
from vplib.evaluate import benchmarks, wups
from vplib.evaluate.benchmarks import Cell
from vplib.evaluate.features import Features, Originals, metadata
from vplib.evaluate.originals import Cut
from vplib.evaluate.tasks import LabelError

TASKS = ("captions", "answers", "wups")  # of `benchmarks`: what is said in words


def videos(data: Mapping, cells: Mapping[str, Mapping]) -> dict[str, Originals]:
    """The videos to learn from, `train`, and those that are asked about or captioned: of the part
    that one of `cells` (`data.benchmarks` of a data set) is scored on, else of `val`, or `test`.

    Where the cell asks questions every video is there once, with all of its questions as `qa`.
    Raises LabelError for a part without questions.
    """
    root = sources.resolve(data["root"])
    spoken = [cell for cell in cells.values() if cell["task"] in TASKS]
    part = "val" if (root / "val").is_dir() else "test"
    part = spoken[0]["part"] if spoken else part
    look = dict(resolution=data["resolution"])
    if not spoken or spoken[0]["task"] == "captions":
        split = (data["kind"], data["root"])
        return {
            name: benchmarks.Told(sources.split(*split, name, **look)) for name in ("train", part)
        }
    found = {}
    for name in ("train", part):
        metas: dict[str, dict] = {}
        for line in benchmarks.lines(root, name):
            if line.get("task", "oe") == "oe":  # not multiple choice
                file = line["file_name"]
                of = metas.setdefault(file, {"file_name": file, "qa": []})
                of["qa"].append(_question(line))
        if not metas:
            raise LabelError(
                f"{root / name}: there are no open questions to learn from and to ask; write them "
                "with python -m vplib.data.public, or correct data.root."
            )
        found[name] = Cut(root / name, [*metas.values()], **look)
    return found


def _question(line: Mapping) -> dict:
    more = {"more": line["more_answers"]} if line.get("more_answers") else {}
    kind = line.get("type", "question")
    return {"question": line["question"], "answer": line["answer"], "kind": kind} | more


def captions(metas: Sequence[Mapping]) -> list[list[str]]:
    """What people say of each clip: several captions, one, or none."""
    alone = ([meta["text"]] if meta.get("text") else [] for meta in metas)
    return [meta.get("captions_reference") or one for meta, one in zip(metas, alone, strict=True)]


def references(asked: pd.DataFrame) -> tuple[list[list[str]], list[str]]:
    """Of a table of questions (`speech.questions`) all true answers of each, and its type as WUPS
    takes it: CW of kinds that are none of NExT-QA's.
    """
    more = asked.get("more", [None] * len(asked["answer"]))
    pairs = zip(asked["answer"], more, strict=True)
    answers = [[one, *(others if isinstance(others, list) else ())] for one, others in pairs]
    return answers, [kind if kind in wups.TYPES else "CW" for kind in asked["kind"]]


def long(data: Mapping) -> dict[str, Cut]:
    """The whole videos of the part that a benchmark of paragraphs or of segments and sentences is
    scored on, by name, with what is said as `language.moments` takes it, and the `paragraph` of each
    where the annotations have one; none of other data.
    """
    for cell in benchmarks.cells(data.get("benchmarks", {})).values():
        if cell.task != "sentences" and cell.beside != "paragraphs":
            continue
        root, metas = sources.resolve(data["root"]), {}
        whole = benchmarks.paragraphs(root, cell.part) if cell.beside else {}
        for line in benchmarks.lines(root, cell.part):
            known = {"file_name": line["file_name"], "events": [], "duration": float("inf")}
            known["paragraph"] = whole.get(line["id"], "")
            event = {"start": line["start"], "end": line["end"], "sentence": line["texts"][0]}
            metas.setdefault(line["file_name"], known)["events"].append(event)
        look = dict(resolution=data["resolution"], max_pixels=data["max_pixels"])
        name = f"{cell.part}-whole"  # its clips are read, too
        return {name: Cut(root / cell.part, [*metas.values()], **look)}
    return {}


def paragraphs(metas: Sequence[Mapping], sentences: Sequence[Sequence[str]]) -> list[str]:
    """What is said of each video as one text: its `paragraph`, or all its sentences."""
    pairs = zip(metas, sentences, strict=True)
    return [meta.get("paragraph") or " ".join(said) for meta, said in pairs]


class Choice(NamedTuple):
    """Texts to choose from, of each of Q questions or the same of all clips; what encoders see, and
    the number of the right text.
    """

    texts: list
    clips: dict[str, np.ndarray]
    right: np.ndarray


def choices(data: Mapping) -> dict[str, Cut]:
    """The videos of the part that a benchmark of options is scored on, by name, each once with what
    is `asked` of it; none of other data. Raises LabelError as `benchmarks.asked`.
    """
    for cell in benchmarks.cells(data.get("benchmarks", {})).values():
        if cell.task == "options":
            root, metas = sources.resolve(data["root"]), {}
            of = benchmarks.asked(cell, benchmarks.lines(root, cell.part), root)
            for line, right in zip(of.items, of.truth.tolist(), strict=True):
                known = {"file_name": line["file_name"], "asked": []}
                one = {"question": line["question"], "options": line["options"], "answer": right}
                metas.setdefault(line["file_name"], known)["asked"].append(one)
            look = dict(resolution=data["resolution"], max_pixels=data["max_pixels"])
            return {f"{cell.part}-asked": Cut(root / cell.part, [*metas.values()], **look)}
    return {}


def choice(source: Originals, seen: Features) -> Choice:
    """Questions about videos of `choices`, each option behind its question, as texts of the world
    are.
    """
    metas = metadata(source)
    asked = [(k, one) for k, row in enumerate(seen.rows) for one in metas[row]["asked"]]
    texts = [[f"{one['question']} {option}" for option in one["options"]] for _, one in asked]
    places = [place for place, _ in asked]
    clips = {who: np.asarray(values)[places] for who, values in seen.values.items()}
    return Choice(texts, clips, np.array([one["answer"] for _, one in asked]))


def acted(data: Mapping) -> dict[str, Cell]:
    """The benchmarks of actions in words (SSv2-Temporal, SSv2-Events), by name; none of other data."""
    cells = benchmarks.cells(data.get("benchmarks", {}))
    return {name: cell for name, cell in cells.items() if cell.task == "actions"}


def actions(
    data: Mapping, corpora: Mapping[str, Originals], found: Mapping[str, Features]
) -> Iterator[tuple[str, Choice]]:
    """Of each benchmark of `acted` its classes as texts, the same for all clips that it is scored
    on; `found` are features of its part. Raises LabelError as `benchmarks.asked`.
    """
    for name, cell in acted(data).items():
        seen, metas = found[cell.part], metadata(corpora[cell.part])
        shown = [metas[row] | {"place": place} for place, row in enumerate(seen.rows)]
        of = benchmarks.asked(cell, shown, sources.resolve(data["root"]))
        places = [meta["place"] for meta in of.items]
        clips = {who: np.asarray(values)[places] for who, values in seen.values.items()}
        yield name, Choice([*of.classes], clips, of.truth)

"""What a step decides of a corpus, clip by clip: one table beside each shard, which names what it drops.

`Shards` leaves out what any table drops, wherever the corpus is read: for training, LiT tuning and
statistics alike. Nothing is decided twice: a table that is there, of this corpus and of this step,
is kept. Remove the tables of a step to have its clips back.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from vplib import files
from vplib.data import buckets, shards
from vplib.data.shards import Clip, Shards
from vplib.data.video import VideoError
from vplib.progress import Progress


@runtime_checkable
class Step(Protocol):
    """Says of a clip why it is dropped, in a dict for JSON, or nothing. `identity` changes whenever
    it might say another thing of the same clip; `name` is a word.
    """

    name: str
    identity: str

    def __call__(self, clip: Clip, name: str) -> dict | None: ...


def identity(*facts: object) -> str:
    """A digest of what decides: anything that JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def decide(step: Step, folder: Path, *, progress=None) -> dict[str, int]:
    """Writes the tables of a step beside all shards of a corpus; how many `clips` there are, how
    many are `dropped`, and how many shards were `decided` now.

    A clip that cannot be decoded is not dropped: training says which it is. A stopped call goes on
    where it was. Raises ShardError, and FileError where another process works there.
    """
    corpus, start, told = Shards(folder, whole=True), 0, {"clips": 0, "dropped": 0, "decided": 0}
    known = {"step": step.name, "identity": step.identity, "corpus": corpus.manifest["fingerprint"]}
    with files.locked(corpus.folder, doing=f"deciding about {step.name}"):
        for shard in corpus.manifest["shards"]:
            path = corpus.folder / shards.table_of(shard["file"], step.name)
            table = _kept(path, known)
            if table is None:
                found = [_said(step, corpus, start, record) for record in range(shard["records"])]
                table = known | {"dropped": [one for one in found if one]}
                files.write(path, json.dumps(table, indent=1, ensure_ascii=False) + "\n")
                told["decided"] += 1
            start += shard["records"]
            told["clips"], told["dropped"] = start, told["dropped"] + len(table["dropped"])
            if progress is not None:
                progress.update(start, dropped=told["dropped"])
    return told


def _said(step: Step, corpus: Shards, start: int, record: int) -> dict | None:
    try:
        said = step(corpus[start + record], f"{corpus.folder.name}[{start + record}]")
    except VideoError:
        return None
    return None if said is None else {"record": record, **said}


def _kept(path: Path, known: dict) -> dict | None:
    """A table that is there and of this corpus and step."""
    try:
        table = json.loads(path.read_bytes())
        return table if table.items() >= known.items() and "dropped" in table else None
    except (OSError, ValueError, AttributeError):
        return None


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """What the commands of all steps begin with."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description.splitlines()[0]
    )
    made.add_argument("corpus", type=Path, help="its shards, such as data/shards/mine/train")
    return made


def run(make: Callable[[], Step], folder: Path) -> None:
    """The command of a step. Ends with one sentence if the corpus or what it needs is not there."""
    try:
        clips = len(Shards(folder, whole=True))
        step = make()
        with Progress(clips, step.name) as progress:
            told = decide(step, folder, progress=progress)
    except (shards.ShardError, buckets.BucketError, VideoError, files.FileError) as error:
        raise SystemExit(f"error: {error}") from None
    print(
        f"{folder}: {told['dropped']} of {told['clips']} clips dropped by {step.name}; the tables of "
        f"{told['decided']} shards are new."
    )

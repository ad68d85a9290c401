"""Videos of one's own as they are, without captions, to shards for stage 2: `prepare`."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from vplib import paths
from vplib.data import sources
from vplib.data.shards import Shards, write
from vplib.progress import Progress

MARGIN = 10 / 9  # of the shorter side, from which training crops. Source: ours, 320 of 288 pixels

LONG = 60.0  # seconds of a video


def resolution(size: int) -> int:
    """Pixels of the shorter side of the frames that a model of `size` pixels learns from."""
    return round(MARGIN * size)


def prepare(
    kind: str,
    root: str | Path,
    names: Iterable[str],
    folder: Path,
    *,
    resolution: int,
    max_pixels: int,
    shard_size: int,
    max_skipped_fraction: float,
) -> dict[str, Path]:
    """Write the shards of the parts `names` of a data set to `folder`/<name>, as `shards.write`
    does; those that are there and of these videos are kept. Returns their folders.

    `kind` and `root` as in `conf/data`; a `root` without parts is one part. Videos need neither
    captions nor, in a folder, `metadata.jsonl`. Raises SourceError for a root that cannot be a
    source and where every video is a single frame, and what `shards.write` raises.
    """
    reading = dict(resolution=resolution, max_pixels=max_pixels, captions=False)
    folders = {}
    for source in [sources.split(kind, root, name, **reading) for name in names]:
        folders[source.name] = folder / source.name
        with Progress(len(source), f"shards of {source.name}") as progress:
            write(
                source,
                folders[source.name],
                shard_size=shard_size,
                workers=min(2, os.cpu_count()) if len(source) > 256 else 0,
                max_skipped_fraction=max_skipped_fraction,
                progress=progress,
            )
    if all(Shards(place).images for place in folders.values()):
        raise sources.SourceError(
            f"{sources.resolve(root)}: every video there is a single frame, and stage 2 learns from "
            "motion; point data.root at videos."
        )
    return folders


def remarks(folders: Mapping[str, Path], *, frames: int, batch: int) -> list[str]:
    """What there is to know of prepared videos before a model of `frames` frames trains on them, a
    sentence each: how many and how long, which were left out, which are short, which are few.
    """
    corpora = [*map(Shards, folders.values())]
    facts = [corpus[index].meta for corpus in corpora for index in range(len(corpus))]
    skipped = {corpus.folder: len(corpus.manifest["skipped"]) for corpus in corpora}
    seconds = [one["duration"] for one in facts]
    short = sum(one["frames"] < frames for one in facts)
    said = [f"{len(facts)} videos of {min(seconds):.1f} to {max(seconds):.1f} s."]
    if max(seconds) > LONG:
        said.append(
            f"The {frames} frames of a clip are spread over a whole video: cut recordings that are "
            "longer than a minute into scenes."
        )
    for folder, count in skipped.items():
        if count:
            report = paths.short(folder / "skipped.csv")
            said.append(f"{count} files cannot be used and were left out: {report} says why.")
    if short:
        said.append(f"{short} videos have fewer than {frames} frames, which they repeat.")
    if len(facts) < batch:
        said.append(
            f"There are fewer videos than the {batch} clips of a batch, which shows some of them "
            "more than once, at other moments."
        )
    return said

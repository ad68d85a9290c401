"""The shards of `shards.write`, written by a cluster: one Apache Beam task a shard.

    python -m vplib.data.beam folder data/videos train gs://bucket/shards/train --runner DataflowRunner ...

A task depends on the source and its own indices alone and ends by renaming what it wrote, so a task
that is killed, repeated or done twice at once harms nothing. What is finished is kept, whichever of the
two wrote it: all bytes, stamps included, are those of `shards.write`.
"""

import argparse
import contextlib
import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vplib import files
from vplib.data import buckets, shards, sources
from vplib.data.buckets import Store

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
except ImportError as error:
    problem = f"{error}: pip install -e '.[beam]' in an environment of its own brings Apache Beam."
    if __name__ == "__main__":
        raise SystemExit(f"error: {problem}") from None
    raise ImportError(problem) from error

# The local runner of Beam that is all Python; its default one may fetch a program of another language.
LOCAL = "FnApiRunner"


class _Shard(beam.DoFn):
    """Writes the shard of a task to `folder`; the source is read from there, once a worker."""

    def __init__(self, folder: str, sent: str, origin: str):
        self.folder, self.sent, self.origin = folder, sent, origin

    def setup(self):
        self.store = Store(self.folder)
        self.source = pickle.loads(self.store.read(self.sent))

    def process(self, task: tuple[str, range]) -> Iterator[None]:
        known = self.source, self.origin
        if buckets.inside(self.folder):
            facts = _into(self.store, *known, *task)
        else:
            facts = shards.write_shard(*known, Path(self.folder), *task)
        for name, count in (("clips", facts["records"]), ("skipped", len(facts["skipped"]))):
            beam.metrics.Metrics.counter("vplib", name).inc(count)
        return iter(())


def _into(store: Store, source: shards.Source, origin: str, file: str, indices: range) -> dict:
    """`shards.write_shard` for a bucket."""
    facts_file, stamp = f"{Path(file).stem}.json", shards.stamp_of(file)
    with contextlib.suppress(FileNotFoundError):
        there = store.read(facts_file), store.read(stamp), store.size(file)
        if facts := shards.kept(origin, *there):
            return facts
    with tempfile.TemporaryDirectory(prefix="vplib-") as near:
        facts = shards.write_shard(source, origin, Path(near), file, indices)
        store.remove([stamp])
        for name in (file, facts_file, stamp):
            if (path := Path(near, name)).exists():  # no stamp where an error may be mended by now
                store.put(path, name)
    return facts


def write(
    source: shards.Source,
    folder: str | Path,
    *,
    shard_size: int,
    max_skipped_fraction: float,
    options: Sequence[str] = (),
) -> dict:
    """Does what `shards.write` does, with Beam; `folder` may be in a bucket. Returns the manifest.

    `options` are Beam's, as on its command line: `--runner=...` and what that runner needs. Without
    a runner everything is done here, in one process, or in several with
    `--direct_running_mode=multi_processing --direct_num_workers=2`. The source travels to the
    workers as a pickle that lies beside the shards while they are written.

    Raises what `shards.write` raises, and BucketError. A bucket cannot be locked: two writers of
    the same corpus do the work twice, two of different ones must not share a folder.
    """
    origin, tasks = shards.plan(source, shard_size)
    here = not buckets.inside(folder)
    locked = (
        files.locked(Path(folder), doing="writing shards") if here else contextlib.nullcontext()
    )
    sent, store = f".{source.name}.pickle", Store(str(folder))
    with locked, tempfile.TemporaryDirectory(prefix="vplib-") as near:
        near = Path(near)
        store.remove(shards.outdated(source.name, store.names(), tasks))
        files.write(near / sent, pickle.dumps(source))
        store.put(near / sent, sent)
        try:
            _run(_Shard(str(folder), sent, origin), tasks, options)
        finally:
            store.remove([sent])
        try:
            facts = store.read_all(f"{Path(file).stem}.json" for file, _ in tasks)
        except FileNotFoundError as error:
            raise shards.ShardError(
                f"{folder}: the runner ended without all shards; read what it says of its workers "
                "and start again, finished shards are kept."
            ) from error
        try:
            manifest = shards.finish(
                source,
                [*map(json.loads, facts)],
                near,
                max_skipped_fraction,
                seen=len(source),
                place=folder,
            )
        finally:
            store.put(near / "skipped.csv", "skipped.csv")
        store.put(near / "manifest.json", "manifest.json")
    return manifest


def _run(shard: _Shard, tasks: list[tuple[str, range]], options: Sequence[str]):
    chosen = PipelineOptions([*options])
    runner = chosen.view_as(StandardOptions).runner or LOCAL
    with beam.Pipeline(runner=runner, options=chosen) as pipeline:
        (
            pipeline
            | "tasks" >> beam.Create(tasks)
            | "spread over workers" >> beam.Reshuffle()
            | "write shards" >> beam.ParDo(shard)
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.data.beam",
        description=__doc__.splitlines()[0],
        epilog="Everything else is an option of Beam, such as --runner=DataflowRunner.",
    )
    parser.add_argument("kind", choices=["folder", "webdataset"])
    parser.add_argument("root", help="what holds train/ and val/, which every worker can reach")
    parser.add_argument("part", help="train or val")
    parser.add_argument("out", help="folder of the shards, local or in a bucket")
    parser.add_argument("--resolution", type=int, required=True, help="data.resolution: pixels")
    parser.add_argument("--shard-size", type=int, default=512, help="data.shard_size: clips")
    parser.add_argument("--max-skipped-fraction", type=float, default=0.01, help="of all clips")
    given, options = parser.parse_known_args()
    try:
        source = sources.split(given.kind, given.root, given.part, resolution=given.resolution)
        manifest = write(
            source,
            given.out,
            shard_size=given.shard_size,
            max_skipped_fraction=given.max_skipped_fraction,
            options=options,
        )
    except (ValueError, files.FileError) as error:  # Beam's own of its options are ValueErrors
        raise SystemExit(f"error: {error}") from None
    print(f"{given.out}: {manifest['records']} clips, {len(manifest['skipped'])} left out")


if __name__ == "__main__":
    main()

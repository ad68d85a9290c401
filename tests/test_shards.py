"""Writing shards: the same bytes whatever happens on the way, clear words where it cannot be."""

import concurrent.futures
import contextlib
import csv
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest
from array_record.python import array_record_module

from vplib import files, paths
from vplib.data import shards
from vplib.data.video import VideoError


class Toy:
    """Clips made of bytes; those in `bad` cannot be used, and each takes `delay` seconds."""

    name = "toy"

    def __init__(self, count=25, bad=(), delay=0.0, fingerprint="one"):
        self.count, self.bad, self.delay, self.fingerprint = count, bad, delay, fingerprint

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.delay)
        if index in self.bad:
            raise VideoError(f"{index}.mp4", "is empty (0 bytes)", "leave it out")
        meta = {
            "fps": 10.0,
            "frames": 20,
            "duration": 2.0,
            "label": "even" if index % 2 == 0 else "odd",
        }
        return shards.Clip(bytes([index]) * 1000, f"clip number {index}", meta)


def write(source, folder, *, shard_size=10, workers=0, max_skipped_fraction=0.2, progress=None):
    return shards.write(
        source,
        folder,
        shard_size=shard_size,
        workers=workers,
        max_skipped_fraction=max_skipped_fraction,
        progress=progress,
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_clip_comes_back_and_shards_survive_pickling_and_threads(tmp_path):
    manifest = write(Toy(), tmp_path)
    assert [shard["records"] for shard in manifest["shards"]] == [10, 10, 5]
    assert sorted(path.name for path in tmp_path.glob("*.array_record")) == [
        f"toy-0000{index}-of-00003.array_record" for index in range(3)
    ]
    read = pickle.loads(pickle.dumps(shards.Shards(tmp_path)))
    assert len(read) == manifest["records"] == 25
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read.__getitem__, range(25))) == [Toy()[index] for index in range(25)]
    with pytest.raises(IndexError, match="only 0 to 24"):
        read[25]


def test_the_number_of_workers_does_not_change_a_byte(tmp_path):
    source = Toy(bad=(3, 12))
    write(source, tmp_path / "alone", workers=0)
    write(source, tmp_path / "two", workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "two")


def test_unusable_clips_are_left_out_and_listed_with_their_reason(tmp_path):
    manifest = write(Toy(bad=(3, 12)), tmp_path)
    expected = [{"file": f"{index}.mp4", "reason": "is empty (0 bytes)"} for index in (3, 12)]
    assert manifest["skipped"] == expected and manifest["records"] == 23
    with (tmp_path / "skipped.csv").open() as file:
        assert list(csv.DictReader(file)) == expected
    texts = [shards.Shards(tmp_path)[index].text for index in range(23)]
    assert texts == [f"clip number {index}" for index in range(25) if index not in (3, 12)]


def test_too_many_unusable_clips_stop_the_writing_without_a_manifest(tmp_path):
    with pytest.raises(
        shards.ShardError,
        match=r"^toy: 2 of the first 10 clips \(of 25\).*no manifest was written.*\.$",
    ):
        write(Toy(bad=(3, 4, 12)), tmp_path, max_skipped_fraction=0.07)
    assert not (tmp_path / "manifest.json").exists() and not temporaries(tmp_path)
    with pytest.raises(shards.ShardError, match="no finished corpus"):
        shards.Shards(tmp_path)


def test_a_corpus_without_a_usable_clip_is_refused(tmp_path):
    with pytest.raises(shards.ShardError, match="25 of the first 25"):
        write(Toy(bad=range(25)), tmp_path, max_skipped_fraction=1.0)
    with pytest.raises(shards.ShardError, match="no clips"):
        write(Toy(count=0), tmp_path)


def test_a_shard_without_a_usable_clip_is_allowed(tmp_path):
    write(Toy(bad=range(10, 20)), tmp_path, max_skipped_fraction=0.5)
    assert shards.Shards(tmp_path)[10].text == "clip number 20"


def test_statistics_add_up_over_shards_and_are_beside_each(tmp_path):
    manifest = write(Toy(), tmp_path)
    statistics = manifest["statistics"]
    assert statistics["totals"] == {
        "clips": 25,
        "frames": 500,
        "seconds": 50.0,
        "words": 75,
        "bytes": 25000,
    }
    assert statistics["clips_by_words"] == {"3": 25} and statistics["clips_by_seconds"] == {"2": 25}
    assert statistics["labels"] == {"even": 13, "odd": 12}
    parts = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("toy-*.json"))]
    assert [part["statistics"]["totals"]["clips"] for part in parts] == [10, 10, 5]
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest


def test_finished_shards_are_kept_and_a_changed_source_writes_all_again(tmp_path):
    class Untouchable(Toy):
        def __getitem__(self, index):
            raise AssertionError("read again")

    first = write(Toy(), tmp_path)
    assert write(Untouchable(), tmp_path) == first
    for path in tmp_path.glob("toy-*.json"):
        path.write_text("[]")  # what is said of a shard is no longer known
    assert write(Toy(), tmp_path) == first
    assert write(Untouchable(), tmp_path) == first
    second = write(Toy(count=31, fingerprint="two"), tmp_path)
    assert second["fingerprint"] != first["fingerprint"]
    assert len(shards.Shards(tmp_path)) == 31 and len(list(tmp_path.glob("*.array_record"))) == 4


def test_a_shard_that_was_cut_short_is_written_again(tmp_path):
    write(Toy(), tmp_path)
    before, path = contents(tmp_path), tmp_path / "toy-00001-of-00003.array_record"
    path.write_bytes(path.read_bytes()[:-10])
    write(Toy(), tmp_path)
    assert contents(tmp_path) == before


class Louder(Toy):
    """Other words for one clip of the second shard."""

    def __getitem__(self, index):
        clip = super().__getitem__(index)
        return clip._replace(text=clip.text.upper()) if index == 12 else clip


def depended_on(folder):
    """What DVC and training take notice of: all but stamps, which `.dvcignore` names."""
    return {name: data for name, data in contents(folder).items() if not name.endswith(".source")}


def test_code_that_writes_equal_bytes_changes_nothing_that_others_depend_on(tmp_path):
    first, before = write(Toy(), tmp_path), depended_on(tmp_path)
    stamps = contents(tmp_path).keys() - before.keys()
    assert stamps == {f".toy-0000{index}-of-00003.source" for index in range(3)}
    ignored = (paths.ROOT / ".dvcignore").read_text(encoding="utf-8").split()
    assert all(any(fnmatch(stamp, one) for one in ignored) for stamp in stamps)
    assert write(Toy(fingerprint="two"), tmp_path) == first and depended_on(tmp_path) == before
    again = write(Louder(fingerprint="three"), tmp_path)
    assert again["fingerprint"] != first["fingerprint"]
    assert shards.Shards(tmp_path)[12].text == "CLIP NUMBER 12"
    differ = [name for name, data in depended_on(tmp_path).items() if data != before[name]]
    assert sorted(differ) == [
        "manifest.json",
        "toy-00001-of-00003.array_record",
        "toy-00001-of-00003.json",
    ]


def test_shards_that_others_put_in_their_place_are_written_again(tmp_path):
    """As `dvc checkout` of another commit does, which leaves the stamps behind."""
    first = write(Toy(), tmp_path / "mine")
    write(Louder(), tmp_path / "other")
    for path in (tmp_path / "other").glob("toy-*"):
        (tmp_path / "mine" / path.name).write_bytes(path.read_bytes())
    assert write(Toy(), tmp_path / "mine") == first
    assert shards.Shards(tmp_path / "mine")[12].text == "clip number 12"


def started(folder, **options):
    """A process that writes slow clips, and has finished its first shard."""
    code = (
        "from pathlib import Path; from test_shards import Toy, write\n"
        "if __name__ == '__main__': "
        f"write(Toy(delay=0.02, bad=(3,)), Path({str(folder)!r}), **{options})\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    writer = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    while not list(folder.glob(".toy-*.source")):
        assert writer.poll() is None
        time.sleep(0.01)
    return writer


def temporaries(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_killing_the_writer_and_starting_again_gives_the_same_bytes(tmp_path):
    writer = started(tmp_path / "killed")
    time.sleep(0.05)  # into the second shard
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert temporaries(tmp_path / "killed")
    assert not (tmp_path / "killed" / "manifest.json").exists()
    write(Toy(bad=(3,)), tmp_path / "killed")
    write(Toy(bad=(3,)), tmp_path / "quiet")
    assert contents(tmp_path / "killed") == contents(tmp_path / "quiet")


@pytest.mark.skipif(not Path("/proc/1/stat").exists(), reason="asks /proc for processes")
def test_workers_end_with_a_killed_parent_and_their_files_go_with_the_next_start(tmp_path):
    writer = started(tmp_path, workers=2, shard_size=2)
    workers = children(writer.pid)
    assert len(workers) >= 2
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    deadline = time.monotonic() + 60
    while any(map(running, workers)):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)
    write(Toy(count=26), tmp_path, shard_size=13)  # a plan without these shards
    assert not temporaries(tmp_path)
    assert len(list(tmp_path.glob("toy-*"))) == 4 and len(list(tmp_path.glob(".toy-*"))) == 2


def children(process):
    stats = [path for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {}
    for path in stats:
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == process]


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_writer_is_told_of_the_first_and_harms_nothing(tmp_path):
    writer = started(tmp_path)
    with pytest.raises(files.FileError, match=rf"in use \(process {writer.pid} .*writing shards"):
        write(Toy(count=3), tmp_path)
    assert writer.wait() == 0
    assert len(shards.Shards(tmp_path)) == 24


def test_a_full_disk_leaves_no_half_written_shard_and_the_rest_can_follow(tmp_path, monkeypatch):
    class FullDisk:
        def __init__(self, path, options):
            Path(path).write_bytes(b"half of a sh")

        def write(self, record):
            pass

        def close(self):
            raise RuntimeError(
                "write() failed: No space left on device; writing /data/a; at byte 262144"
            )

    with monkeypatch.context() as patch:
        patch.setattr(array_record_module, "ArrayRecordWriter", FullDisk)
        with pytest.raises(files.FileError, match=r"the disk is full; free some space .*\.$"):
            write(Toy(), tmp_path)
    assert not temporaries(tmp_path) and not list(tmp_path.glob("*.array_record"))

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "__getitem__", no_space)  # not the fault of a clip
        with pytest.raises(files.FileError, match="the disk is full"):
            write(Toy(), tmp_path)
    assert write(Toy(), tmp_path)["records"] == 25


def test_a_file_where_a_folder_must_be_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(files.FileError, match=r"out/toy cannot be written: .* is a file; "):
        write(Toy(), tmp_path / "out" / "toy")


class Mistaken(Toy):
    """A source that fails with `error` for the clips in `bad`."""

    error = RuntimeError("a mistake\x1b[2J in the code")

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error
        return Toy(self.count)[index]


def test_a_clip_is_left_out_whatever_it_raises_and_tried_again_at_the_next_start(tmp_path):
    manifest = write(Mistaken(bad=(12,)), tmp_path)
    reason = r"RuntimeError: a mistake\x1b[2J in the code"
    assert manifest["skipped"] == [{"file": "toy[12]", "reason": reason}]
    assert len(shards.Shards(tmp_path)) == 24
    assert write(Toy(), tmp_path)["records"] == 25


def test_a_mistake_of_the_source_stops_the_writing_and_is_quoted(tmp_path):
    with pytest.raises(shards.ShardError, match=r"first: toy\[0\] RuntimeError: a mistake.*\.$"):
        write(Mistaken(bad=range(25)), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_lack_of_memory_is_no_fault_of_a_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(Mistaken, "error", MemoryError())
    with pytest.raises(MemoryError):
        write(Mistaken(bad=(3,)), tmp_path)


@pytest.mark.parametrize(
    "content",
    [{1: "a"}, {"a": 2**64}, {"a": "\ud83d"}, {"a": object()}],
    ids=["number as key", "large", "surrogate", "object"],
)
def test_records_that_could_not_be_read_again_are_not_written(tmp_path, monkeypatch, content):
    def clip(self, index):
        found = Toy()[index]
        return found._replace(meta={**found.meta, "content": content}) if index == 3 else found

    monkeypatch.setattr(Mistaken, "__getitem__", clip)
    assert [entry["file"] for entry in write(Mistaken(), tmp_path)["skipped"]] == ["toy[3]"]
    assert [shards.Shards(tmp_path)[index].text[-1] for index in range(5)] == [*"01245"]


class Deadly(Toy):
    def __getitem__(self, index):
        os._exit(9)


def test_the_death_of_a_worker_is_named(tmp_path):
    with pytest.raises(shards.ShardError, match="a worker process died"):
        write(Deadly(), tmp_path, workers=1)


def test_damaged_shards_are_noticed(tmp_path):
    write(Toy(), tmp_path)
    path = tmp_path / "toy-00001-of-00003.array_record"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(
        shards.ShardError,
        match=f"{path}: the shard has {len(data) - 100} bytes instead of {len(data)}",
    ):
        shards.Shards(tmp_path)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(shards.ShardError, match="a shard is damaged"):
        shards.Shards(tmp_path)
    position = data.index(b"clip number 15")
    path.write_bytes(data[:position] + b"x" + data[position + 1 :])
    with pytest.raises(shards.ShardError, match="record 15 is damaged"):
        shards.Shards(tmp_path)[15]
    path.unlink()
    with pytest.raises(shards.ShardError, match="0 bytes instead"):
        shards.Shards(tmp_path)


def test_progress_counts_clips(tmp_path):
    class Line:
        calls = []

        def update(self, step, **numbers):
            self.calls.append((step, numbers))

    write(Toy(bad=(12,)), tmp_path, progress=Line())
    assert Line.calls == [(10, {"skipped": 0}), (20, {"skipped": 1}), (25, {"skipped": 1})]


def test_a_name_that_is_no_file_name_is_refused(tmp_path):
    source = Toy()
    source.name = "../toy"
    with pytest.raises(shards.ShardError, match="cannot begin a file name"):
        write(source, tmp_path)

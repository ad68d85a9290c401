"""Shards by Apache Beam's local runner: the bytes of `shards.write`, whatever happens on the way.

Skipped where Beam is absent: `make test-extras` installs it into an environment of its own.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="apache_beam is absent: make test-extras")

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from test_shards import Louder, Mistaken, Toy, contents, write
from test_video import moving_square

from vplib import files
from vplib.data import beam, buckets, shards, sources, video

URL = "memory://box/toy"


class Untouchable(Toy):
    def __getitem__(self, index):
        raise AssertionError("read again")


@pytest.fixture(autouse=True)
def _empty():
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


def by_beam(source, folder, *, max_skipped_fraction=0.2, **options):
    return beam.write(
        source, folder, shard_size=10, max_skipped_fraction=max_skipped_fraction, **options
    )


def there(url=URL):
    memory = fsspec.filesystem("memory")
    return {n.rpartition("/")[2]: memory.cat_file(n) for n in memory.find(url)}


def known(folder):
    """All but the lock, which a bucket has not."""
    return {name: data for name, data in contents(folder).items() if name != ".lock"}


def test_the_bytes_are_those_of_shards_write_in_a_folder_and_in_a_bucket(tmp_path):
    source = Toy(bad=(3, 12))
    manifest = write(source, tmp_path / "plain")
    assert by_beam(source, tmp_path / "beam") == by_beam(source, URL) == manifest
    assert contents(tmp_path / "beam") == contents(tmp_path / "plain")
    assert there() == known(tmp_path / "plain")
    assert shards.Shards(tmp_path / "beam")[22].text == "clip number 24"


def test_what_either_has_finished_the_other_does_not_write_again(tmp_path):
    first = by_beam(Toy(), tmp_path)
    assert write(Untouchable(), tmp_path) == by_beam(Untouchable(), tmp_path) == first
    assert by_beam(Toy(), URL) == by_beam(Untouchable(), URL) == first
    second = by_beam(Louder(fingerprint="two"), URL)
    assert second["fingerprint"] != first["fingerprint"]


def test_what_a_killed_writer_left_in_a_bucket_goes_with_the_next_start(tmp_path):
    memory = fsspec.filesystem("memory")
    by_beam(Toy(count=45), URL)
    memory.pipe_file("/box/toy/.toy-00000-of-00003.json.abc.tmp", b"half")
    memory.pipe_file("/box/toy/.toy.pickle", b"half")
    write(Toy(), tmp_path)
    by_beam(Toy(), URL)
    assert there() == known(tmp_path)


def test_a_mistake_is_tried_again_at_the_next_start():
    assert by_beam(Mistaken(bad=(12,)), URL)["records"] == 24
    assert by_beam(Toy(), URL)["records"] == 25


@pytest.mark.parametrize("bucket", [False, True])
def test_too_many_unusable_clips_give_a_list_and_no_manifest(tmp_path, bucket):
    place = URL if bucket else tmp_path / "toy"
    by_beam(Toy(), place)
    with pytest.raises(shards.ShardError, match=rf"^toy: 9 of .* listed in {place}/skipped.csv"):
        by_beam(Toy(bad=range(9), fingerprint="two"), place)
    found = there() if bucket else contents(place)
    assert "manifest.json" not in found and found["skipped.csv"].count(b"\n") == 10
    assert not [name for name in found if "pickle" in name or name.endswith(".tmp")]


def test_a_full_disk_ends_the_run_in_one_sentence_and_the_rest_can_follow(tmp_path, monkeypatch):
    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "__getitem__", no_space)
        with pytest.raises(files.FileError, match="the disk is full"):
            by_beam(Toy(), tmp_path / "beam")
    assert not list((tmp_path / "beam").glob("manifest.json")) + list(tmp_path.glob("*/.*.pickle"))
    by_beam(Toy(), tmp_path / "beam")
    write(Toy(), tmp_path / "plain")
    assert contents(tmp_path / "beam") == contents(tmp_path / "plain")


def test_a_bucket_that_refuses_is_one_sentence(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    with pytest.raises(buckets.BucketError, match=r"box/toy cannot be written .*rights.*\.$"):
        by_beam(Toy(), URL)


def test_a_runner_that_ends_without_all_shards_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_run", lambda *_: None)
    with pytest.raises(shards.ShardError, match=r"the runner ended without all shards.*\.$"):
        by_beam(Toy(), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_second_writer_is_told_of_the_first(tmp_path):
    with files.locked(tmp_path, doing="something else"), pytest.raises(files.FileError):
        by_beam(Toy(), tmp_path)


def test_killing_the_runner_and_starting_again_gives_the_same_bytes(tmp_path):
    code = (
        "from test_shards import Toy; from test_beam import by_beam\n"
        f"by_beam(Toy(delay=0.02, bad=(3,)), {str(tmp_path / 'killed')!r})\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    writer = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    while not list((tmp_path / "killed").glob(".toy-*.source")):
        assert writer.poll() is None
        time.sleep(0.01)
    time.sleep(0.05)  # into another shard
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    by_beam(Toy(bad=(3,)), tmp_path / "killed")
    write(Toy(bad=(3,)), tmp_path / "plain")
    assert known(tmp_path / "killed") == known(tmp_path / "plain")


def test_the_command_writes_what_10_prepare_corpus_finds_finished(tmp_path, monkeypatch, capsys):
    train = tmp_path / "videos" / "train"
    train.mkdir(parents=True)
    lines = []
    for index in range(3):
        (train / f"{index}.mp4").write_bytes(video.encode(moving_square(), 10 + index))
        lines.append(json.dumps({"file_name": f"{index}.mp4", "text": f"clip {index}"}))
    (train / "metadata.jsonl").write_text("\n".join(lines))
    words = ["folder", str(tmp_path / "videos"), "train", str(tmp_path / "out"), "--resolution=24"]
    monkeypatch.setattr("sys.argv", ["beam", *words, "--shard-size=2"])
    beam.main()
    assert "3 clips, 0 left out" in capsys.readouterr().out
    source = sources.split("folder", str(tmp_path / "videos"), "train", resolution=24)
    write(source, tmp_path / "plain", shard_size=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["folder", "/nowhere", "train", "out", "--resolution=24"], "there is no such file"),
        (["folder", "videos", "train", "out", "--resolution=24", "--runner=No"], "runner: No"),
        (["folder", "videos", "train", "nosuch://a/b", "--resolution=24"], "Protocol not known"),
    ],
)
def test_mistakes_in_the_command_are_one_sentence(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = tmp_path / "videos" / "train"
    train.mkdir(parents=True)
    (train / "0.mp4").write_bytes(video.encode(moving_square(), 10))
    (train / "metadata.jsonl").write_text('{"file_name": "0.mp4", "text": "a clip"}\n')
    words = [str(tmp_path / "videos") if word == "videos" else word for word in words]
    monkeypatch.setattr("sys.argv", ["beam", *words])
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        beam.main()

"""Corpora in a bucket, which here is fsspec's file system in memory."""

import concurrent.futures
import pickle

import fsspec
import numpy as np
import pytest
import toy
from fsspec.implementations.memory import MemoryFileSystem
from test_shards import Toy, write

from vplib.data import buckets, pipeline, shards

URL = "memory://box/corpora/toy"


@pytest.fixture
def memory():
    """The bucket, empty."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()


def upload(folder, url=URL):
    for path in folder.glob("[!.]*"):
        buckets.Store(url).put(path, path.name)


def fetched(folder):
    return sorted(path.name for path in folder.glob("*.array_record"))


def test_records_of_a_bucket_are_those_of_the_folder_and_shards_come_when_used(
    memory, tmp_path, out
):
    write(Toy(bad=(3, 12)), tmp_path / "toy")
    upload(tmp_path / "toy")
    near, far = shards.Shards(tmp_path / "toy"), shards.Shards(URL)
    assert len(far) == len(near) == 23 and far.manifest == near.manifest
    assert fetched(far.folder) == [] and far.folder.is_relative_to(out)
    assert far[9] == near[9]  # the first of the second shard
    assert fetched(far.folder) == ["toy-00001-of-00003.array_record"]
    again = pickle.loads(pickle.dumps(far))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert [*pool.map(again.__getitem__, range(23))] == [near[index] for index in range(23)]
    assert len(fetched(far.folder)) == 3
    for name in memory.ls("/box/corpora/toy", detail=False):
        memory.rm(name) if name.endswith(".array_record") else None
    assert shards.Shards(URL)[0] == near[0]  # what was fetched is kept


def test_training_reads_the_same_batches_through_a_stand_in(memory, tmp_path):
    local = toy.write(toy.Marked("marked", 1), tmp_path / "marked")
    upload(local)
    stand_in = buckets.link(URL, tmp_path / "elsewhere" / "marked")
    look = dict(frames=3, size=12, resolution=16, batch=4, mixing="plain", seed=0)

    def first(folder):
        return next(pipeline.stream({"one": folder}, {"one": 1.0}, **look))["video"]

    assert np.array_equal(first(stand_in), first(local))


def test_a_corpus_that_was_written_again_replaces_what_was_fetched(memory, tmp_path, out):
    write(Toy(), tmp_path / "toy")
    upload(tmp_path / "toy")
    assert shards.Shards(URL)[20].text == "clip number 20"
    write(Toy(bad=(20,)), tmp_path / "other")
    upload(tmp_path / "other")
    assert shards.Shards(URL)[20].text == "clip number 21"


def test_a_corpus_of_its_own_is_not_replaced(memory, tmp_path):
    write(Toy(), tmp_path / "toy")
    upload(tmp_path / "toy")
    with pytest.raises(buckets.BucketError, match=r"toy: a corpus of its own is there; .*\.$"):
        buckets.link(URL, tmp_path / "toy")
    assert len(shards.Shards(tmp_path / "toy")) == 25


def test_what_is_missing_in_a_bucket_is_named(memory, tmp_path, out):
    with pytest.raises(buckets.BucketError, match=r"toy: there is no finished corpus .*\.$"):
        shards.Shards(URL)
    write(Toy(), tmp_path / "toy")
    upload(tmp_path / "toy")
    corpus, second = shards.Shards(URL), "/box/corpora/toy/toy-00001-of-00003.array_record"
    memory.pipe_file(second, memory.cat_file(second)[:-1])
    with pytest.raises(buckets.BucketError, match=r"00001-of-00003.*no shard of the \d+ bytes"):
        corpus[12]
    memory.rm(second)
    with pytest.raises(buckets.BucketError, match=r"00001-of-00003.*no shard of the \d+ bytes"):
        corpus[12]
    assert corpus[3].text == "clip number 3" and len(fetched(corpus.folder)) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://a/b", r"nosuch://a/b cannot be reached \(ValueError: Protocol not known.*\.$"),
        ("gs://a/b", r"gs://a/b cannot be reached: .*gcsfs.*\.$"),
    ],
)
def test_what_fsspec_cannot_reach_is_one_sentence(url, said, out):
    if url.startswith("gs"):
        try:
            import gcsfs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    with pytest.raises(buckets.BucketError, match=said):
        shards.Shards(url)


def test_a_bucket_that_refuses_is_one_sentence(memory, tmp_path, monkeypatch, out):
    def refuse(*_, **__):
        raise PermissionError("Forbidden\x1b[2J")

    write(Toy(), tmp_path / "toy")
    for method, done in (("cat_file", "read"), ("put_file", "written")):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, method, refuse)
            with pytest.raises(
                buckets.BucketError, match=rf"{done} \(PermissionError: .*\\x1b.*rights.*\.$"
            ):
                shards.Shards(URL) if done == "read" else upload(tmp_path / "toy")


def test_a_file_appears_in_a_bucket_complete_or_not_at_all(memory, tmp_path, monkeypatch):
    (tmp_path / "one").write_bytes(b"a whole file")

    def half(system, path, to, **_):
        system.pipe_file(to, b"a wh")
        raise ConnectionError("reset")

    with monkeypatch.context() as patch, pytest.raises(buckets.BucketError, match="reset"):
        patch.setattr(MemoryFileSystem, "put_file", half)
        buckets.Store(URL).put(tmp_path / "one", "one")
    assert "one" not in buckets.Store(URL).names()
    buckets.Store(URL).put(tmp_path / "one", "one")
    assert buckets.Store(URL).read("one") == b"a whole file"


def test_the_command_makes_a_stand_in(memory, tmp_path, monkeypatch, capsys):
    write(Toy(), tmp_path / "toy")
    upload(tmp_path / "toy")
    monkeypatch.setattr("sys.argv", ["buckets", URL, str(tmp_path / "near")])
    buckets.main()
    assert "shards come when they are first used" in capsys.readouterr().out
    assert shards.Shards(tmp_path / "near")[24] == Toy()[24]
    monkeypatch.setattr("sys.argv", ["buckets", "memory://gone", str(tmp_path / "gone")])
    with pytest.raises(SystemExit, match=r"error: memory://gone: there is no finished corpus"):
        buckets.main()
    assert not (tmp_path / "gone").exists()

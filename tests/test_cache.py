"""Features in files: what is trained on them is the same, and nothing that was written is lost."""

import errno
import json
import os
import shutil
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from test_features import VIEW, Counted
from test_heads import RECIPE, planted

from vplib import code, files
from vplib.data import pipeline, shards, sources
from vplib.evaluate import cache, classify, features, heads, multilayer, tasks
from vplib.evaluate.cache import Cache, CacheError, OnDisk
from vplib.model import checkpoints

WEIGHTS = {"weights": "of a test", "dtype": "float32"}


def frames(videos):
    return videos[:, :, ::3].astype(np.float32)


def colour(videos):
    return videos.astype(jnp.bfloat16).mean((1, 2, 3, 4))


ENCODERS = {"frames": frames, "a mean/of all": colour}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list:
    found = shards.Shards(toy.write(toy.Marked("mine", 3), tmp_path_factory.mktemp("corpus")))
    videos = [found[i].video for i in range(8)]
    return [*videos[:2], None, *videos[2:6], *videos[6:], None]


def run(clips, folder: Path, encoders=ENCODERS, identity=WEIGHTS, **changes):
    given = VIEW | dict(name="mine", out=folder, batch=3, max_skipped_fraction=0.5) | changes
    kept = None if identity is None else Cache(folder, identity)
    return features.features(encoders, Counted(clips), **given, cache=kept)


def content(folder: Path) -> dict[str, bytes]:
    """What is kept, by name."""
    return {p.name: p.read_bytes() for p in (folder / "mine").iterdir() if p.name[0] != "."}


def same(found, expected) -> bool:
    assert found.rows.tolist() == expected.rows.tolist() and found.skipped == expected.skipped
    assert [*found.values] == [*expected.values]
    pairs = zip(found.values.values(), expected.values.values(), strict=True)
    return all(
        a.dtype == b.dtype and (np.asarray(a) == np.asarray(b)).all() and a.shape == b.shape
        for a, b in pairs
    )


# --- rows ----------------------------------------------------------------------------------------


def on_disk(folder: Path, values: np.ndarray) -> cache.Rows:
    kept = OnDisk(folder, len(values), {})
    kept.add([*range(len(values))], {"it": values})
    return kept.finish()["it"]


@pytest.mark.parametrize("shape", [(9, 2, 3), (9,), (0, 4)])
def test_rows_are_chosen_as_those_of_an_array_and_read_as_they_are_asked_for(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    rows, n = on_disk(tmp_path, values), len(values)
    mask = np.arange(n) % 3 > 0
    for choose in (
        lambda of: of,
        lambda of: of[2:7],
        lambda of: of[::-2],
        lambda of: of[mask],
        lambda of: of[np.flatnonzero(mask)[::-1]],
        lambda of: of[mask][1:][np.arange(n)[: min(n, 2)]],
    ):
        chosen, expected = choose(rows), choose(values)
        assert isinstance(chosen, cache.Rows)
        told = (chosen.shape, chosen.ndim, chosen.dtype, chosen.nbytes, len(chosen))
        assert told == (
            expected.shape,
            expected.ndim,
            expected.dtype,
            expected.nbytes,
            len(expected),
        )
        np.testing.assert_array_equal(np.asarray(chosen), expected)
    np.testing.assert_array_equal(np.asarray([*rows], np.float16).reshape(shape), values)
    assert jnp.asarray(rows, jnp.float32).dtype == np.float32
    if n:
        assert (rows[-1] == values[-1]).all() and isinstance(rows[-1], np.ndarray | np.float16)
        doubled = rows.seen(lambda x: np.stack([x, x], 1))
        assert doubled.shape == (n, 2, *shape[1:])
        np.testing.assert_array_equal(np.asarray(doubled[3:5])[:, 1], values[3:5])
    with pytest.raises(IndexError):
        rows[n]


def test_choosing_rows_reads_nothing(tmp_path):
    rows = on_disk(tmp_path, np.zeros((4, 2)))
    shutil.rmtree(tmp_path)
    few = rows[np.array([1, 2])]
    with pytest.raises(CacheError, match=r"^\S+0\.bin cannot be read \(No such file.*again$"):
        np.asarray(few)


# --- the same features, the same heads -----------------------------------------------------------


def test_features_are_those_in_memory_of_two_encoders_in_one_pass(clips, tmp_path):
    expected = run(clips, tmp_path, identity=None)
    assert all(isinstance(part, np.ndarray) for part in expected.values.values())
    found = run(clips, tmp_path)
    assert same(found, expected) and found.values["frames"].shape == (8, 3, 4, 12, 3)
    assert found.values["a mean/of all"].shape == (8,) and len(found.skipped) == 2


def test_heads_trained_from_files_have_the_same_bits(tmp_path):
    x, y = planted(96, 0, 8.0)
    rows, seeds = on_disk(tmp_path, x), dict(shots=10, steps=4, seeds=range(2))
    names, labels = ("train", "test"), [[f"class {k}" for k in y]] * 2
    labels[1] = ["other" if k == 3 else name for k, name in zip(y, labels[1], strict=True)]
    logits = []
    for tokens in (x, rows):
        found = features.Features({"tokens": tokens}, np.arange(len(y)), [])
        _, train, test = tasks.usable(tasks.TASKS["classification"], labels, [found] * 2, names)
        assert isinstance(test.values["tokens"], type(tokens)) and len(test.targets) < len(y)
        recipe = {"weight_decay": 0.01, "learning_rate": 3e-3, "epochs": 2, "batch": 8}
        probes = classify.train_probes(
            train.values["tokens"], train.targets, classes=4, heads=2, **seeds, **recipe
        )
        digests = [checkpoints.digest(checkpoints.flatten(probe)) for probe in probes]
        answers = tasks.answer(tasks.TASKS["classification"], probes, test.values["tokens"], y)
        logits.append((digests, answers.outputs.tobytes()))
    assert logits[0] == logits[1] and logits[0][0][0] != logits[0][0][1]


def test_heads_of_several_layers_too(tmp_path):
    x, y = planted(64, 0, 8.0)
    x = np.stack([x, x[::-1], 2 * x], 1)
    found = []
    for tokens in (x, on_disk(tmp_path, x)):
        head = multilayer.train(tokens, y, seed=0, **RECIPE | {"epochs": 1})
        said = multilayer.predict(head, tokens, batch=24), multilayer.pooled(head, tokens)
        found.append([part.tobytes() for part in said])
    assert found[0] == found[1]


def test_large_tokens_are_computed_with_in_pieces(tmp_path, monkeypatch):
    """Of at most PART and SAMPLE bytes, with the same result but for rounding, from files as from
    memory.
    """
    x, y = planted(70, 0, 8.0)
    rows, read = on_disk(tmp_path, x), []
    recipe = RECIPE | {"seed": 0, "epochs": 3, "batch": 24}
    whole = heads.train_probe(x, y, **recipe)
    asked = cache.Rows.__array__
    monkeypatch.setattr(
        cache.Rows,
        "__array__",
        lambda self, *a, **k: read.append(len(self)) or asked(self, *a, **k),
    )
    monkeypatch.setattr(heads, "PART", 10 * x[0].nbytes)
    found = [heads.train_probe(of, y, **recipe) for of in (x, rows)]
    assert read == [70] + 18 * [8]  # three epochs of two batches of three pieces
    assert (heads.predict(found[0], x) == heads.predict(found[1], rows)).all()
    assert read[19:] == 7 * [10]
    np.testing.assert_allclose(heads.predict(found[0], x), heads.predict(whole, x), atol=2e-3)
    monkeypatch.setattr(heads, "SAMPLE", 5 * x[0].nbytes)
    probe = heads.train_probe(rows, y, **recipe)
    assert read[26] == 5
    np.testing.assert_allclose(probe.mean[...], x[:5].astype(np.float32).mean((0, 1)), rtol=1e-5)


def test_a_batch_that_no_smaller_piece_divides_is_taken_clip_by_clip(monkeypatch):
    """By an optimiser that feels the scale of gradients, as AdamW does not."""
    x, y = planted(23, 0, 8.0)
    plain = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
    monkeypatch.setattr(heads, "_optimiser", lambda weight_decay: plain)
    recipe = RECIPE | {"seed": 0, "epochs": 3, "batch": 23, "learning_rate": 0.5}
    whole = heads.train_probe(x, y, **recipe)
    monkeypatch.setattr(heads, "PART", 10)
    found = heads.predict(heads.train_probe(x, y, **recipe), x)
    np.testing.assert_allclose(found, heads.predict(whole, x), atol=2e-3)
    assert np.ptp(found) > 0.1


# --- stopped, and started again ------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture
def cut(monkeypatch):
    """`cut(k)` ends the k-th write in its middle; more are fine after `cut(None)`."""
    put, state = cache._put, {}

    def _put(path, at, data):
        state["left"] -= 1
        if not state["left"]:
            put(path, at, data[: len(data) // 2])
            raise Killed
        put(path, at, data)

    def set_(number):
        state["left"] = number or 1_000_000
        monkeypatch.setattr(cache, "_put", _put)

    return set_


@pytest.mark.parametrize(
    ("batch", "number"), [*((3, n) for n in range(1, 10)), *((4, n) for n in range(1, 8))]
)
def test_a_killed_run_goes_on_as_if_never_stopped(clips, tmp_path, monkeypatch, cut, batch, number):
    """Two encoders and the list of clips are three writes a batch. The last clip, which cannot be
    read, is told with the last of three batches, or after the second of two.
    """
    expected = run(clips, tmp_path / "whole", batch=batch)
    encoded, counted = [], lambda videos: encoded.append(len(videos)) or frames(videos)
    encoders = {"frames": counted, "a mean/of all": colour}
    monkeypatch.setattr(code, "of", lambda *things: "")
    cut(number)
    with pytest.raises(Killed):
        run(clips, tmp_path / "cut", encoders, batch=batch)
    before, done = len(encoded), (number - 1) // 3
    cut(None)
    assert same(run(clips, tmp_path / "cut", encoders, batch=batch), expected)
    assert len(encoded) - before == -(-8 // batch) - done
    kept, whole = content(tmp_path / "cut"), content(tmp_path / "whole")
    assert kept.pop("about.json") and whole.pop("about.json") and kept == whole


def test_a_second_run_reads_and_encodes_nothing_and_remembers_what_was_skipped(
    clips, tmp_path, monkeypatch
):
    expected = run(clips, tmp_path)
    before = content(tmp_path)
    monkeypatch.setattr(pipeline, "read_clip", pytest.fail)
    (tmp_path / "skipped-mine.csv").unlink()
    monkeypatch.setattr(
        code, "of", lambda *things: json.loads(before["about.json"])["identity"]["code"]
    )
    never = dict.fromkeys(ENCODERS, pytest.fail)
    assert same(run(clips, tmp_path, never), expected) and content(tmp_path) == before
    assert "9.mp4" in (tmp_path / "skipped-mine.csv").read_text()
    with pytest.raises(sources.SourceError, match="2 of 10 videos cannot be used"):
        run(clips, tmp_path, never, max_skipped_fraction=0.1)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("weights", {"identity": WEIGHTS | {"weights": "others"}}),
        ("dtype", {"identity": WEIGHTS | {"dtype": "bfloat16"}}),
        ("view", {"size": 8}),
        ("videos", {}),
        ("encoders and code", {"encoders": {"frames": frames}}),
        ("code", {"encoders": ENCODERS | {"frames": colour}}),
    ],
)
def test_features_of_something_else_are_refused(clips, tmp_path, what, change):
    run(clips, tmp_path)
    before = content(tmp_path)
    seen = clips[1:] if what == "videos" else clips
    message = rf"^\S+mine holds other features \({what} differ\): delete this folder [^\n]*one$"
    with pytest.raises(CacheError, match=message):
        run(seen, tmp_path, **change)
    assert content(tmp_path) == before


def test_features_of_other_shapes_are_refused(clips, tmp_path, cut):
    cut(4)  # after the first batch
    with pytest.raises(Killed):
        run(clips, tmp_path)
    cut(None)
    kept = OnDisk(tmp_path / "mine", 10, json.loads(content(tmp_path)["about.json"])["identity"])
    with pytest.raises(CacheError, match=r"\(shapes differ\)"):
        kept.add([3], {"frames": np.zeros((1, 2)), "a mean/of all": np.zeros(1)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "0.bin", 5),
        lambda folder: (folder / "1.bin").unlink(),
        lambda folder: (folder / "about.json").write_bytes(b"{"),
        lambda folder: (folder / "about.json").write_text("[1]"),
        lambda folder: (folder / "clips.jsonl").write_text('{"rows": 1}\n'),
        lambda folder: (folder / "clips.jsonl").write_bytes(b"\xff\n"),
    ],
)
def test_damaged_folders_are_one_sentence(clips, tmp_path, damage):
    run(clips, tmp_path)
    damage(tmp_path / "mine")
    with pytest.raises(CacheError, match=r"^\S+mine is damaged: delete this folder [^\n]*again$"):
        run(clips, tmp_path)


def test_a_file_that_became_shorter_meanwhile_is_one_sentence(clips, tmp_path):
    found = run(clips, tmp_path)
    os.truncate(tmp_path / "mine" / "0.bin", 5)
    with pytest.raises(CacheError, match=r"mine is damaged: delete"):
        np.asarray(found.values["frames"])


def test_one_process_at_a_time_encodes(clips, tmp_path):
    held = files.locked(tmp_path / "mine", doing="encoding mine")
    with held, pytest.raises(files.FileError, match=r"mine is in use \(process \d+ on .*, encod"):
        run(clips, tmp_path)
    assert len(run(clips, tmp_path).rows) == 8


# --- a full disk ---------------------------------------------------------------------------------


def test_a_disk_without_room_is_found_out_early_and_work_goes_on(clips, tmp_path, monkeypatch):
    expected, usage = run(clips, tmp_path / "whole"), shutil.disk_usage
    message = (
        r"^\S+mine needs 1\.04e-05 GB for the features of 6 more clips and 1e-06 GB are free: "
        r"[^\n]*kept\.$"
    )
    full = usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    for _ in range(2):  # after the first batch, and before the next one
        with pytest.raises(files.FileError, match=message):
            run(clips, tmp_path / "full")
    assert len(content(tmp_path / "full")["clips.jsonl"].splitlines()) == 1
    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert same(run(clips, tmp_path / "full"), expected)
    assert content(tmp_path / "full") == content(tmp_path / "whole")


@pytest.mark.parametrize("room", [100, 1000, 1729, 6000, 13000])
def test_a_file_that_grows_no_further_is_one_sentence_and_work_goes_on(clips, tmp_path, room):
    """The system writes as much of a batch as there is room for."""
    resource = pytest.importorskip("resource")
    expected = run(clips, tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(files.FileError, match=r"^\S+ cannot be written: the file is larger"):
            run(clips, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(run(clips, tmp_path / "full"), expected)
    assert content(tmp_path / "full") == content(tmp_path / "whole")


def test_a_disk_that_fills_up_while_it_is_written_is_one_sentence(clips, tmp_path, monkeypatch):
    expected, sync, calls = run(clips, tmp_path / "whole"), os.fsync, []

    def full(number):
        calls.append(number)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.FileError, match=r"^\S+1\.bin cannot be written: the disk is full; "):
        run(clips, tmp_path / "full")
    assert same(run(clips, tmp_path / "full"), expected)


# --- whose they are ------------------------------------------------------------------------------


def test_a_fingerprint_is_of_the_videos_alone(clips, tmp_path):
    digest = features.fingerprint(Counted(clips))
    assert (
        digest == features.fingerprint(Counted(clips)) != features.fingerprint(Counted(clips[1:]))
    )
    assert digest != features.fingerprint(Counted([*clips[:-2], clips[0], None]))
    lines = [{"file_name": f"{k}.mp4", "label": "a"} for k in range(2)]
    made = partial(sources.FolderSource, tmp_path, name="mine", resolution=12)

    def write():
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))

    for k in range(2):
        (tmp_path / f"{k}.mp4").write_bytes(clips[k])
    write()
    first, before = features.fingerprint(made()), made().fingerprint
    lines[0]["label"] = "b"
    write()
    assert features.fingerprint(made()) == first and made().fingerprint != before
    (tmp_path / "1.mp4").write_bytes(clips[1][:-1] + b"\0")
    assert features.fingerprint(made()) != first


def test_a_shared_folder_is_found_again_by_its_identity(tmp_path):
    place = cache.shared(tmp_path, WEIGHTS, {"size": 12}, ["a", "b"])
    assert place == cache.shared(
        tmp_path, dict(reversed(WEIGHTS.items())), {"size": 12}, ["a", "b"]
    )
    assert place.folder.parent == tmp_path and place.identity == WEIGHTS
    others = [
        cache.shared(tmp_path, WEIGHTS | {"dtype": "bfloat16"}, {"size": 12}, ["a", "b"]),
        cache.shared(tmp_path, WEIGHTS, {"size": 8}, ["a", "b"]),
        cache.shared(tmp_path, WEIGHTS, {"size": 12}, ["b", "a"]),
    ]
    assert len({place.folder, *(other.folder for other in others)}) == 4

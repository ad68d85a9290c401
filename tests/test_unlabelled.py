"""Stage 2 on videos without labels, from any weights: what is taken, what is said, what comes out."""

import contextlib
import functools
import json
import os
import sys
import types
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import toy
from test_sources import folder_of, tar_of
from test_video import moving_square

from vplib import config, export, paths, run
from vplib.data import pipeline, shards, sources, unlabelled, video
from vplib.evaluate import classify
from vplib.model import checkpoints, sizes
from vplib.model.encoders import VideoEncoder

FILES = [f"{place}{name}" for place in ("", "day 1/") for name in ("a.mp4", "b.MP4", "c.mp4")]


def square(frames: int = 12, shift: int = 0) -> bytes:
    return video.encode(np.roll(moving_square(frames), shift, axis=2), 10)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder of video files as a camera leaves it: other files, hidden ones and a broken one."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(FILES):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(square(2 if number == 1 else 12, 7 * number))
    for name in ("notes.txt", "._a.mp4", ".trash/a.mp4"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no video")
    (root / "day 1" / "broken.avi").write_bytes(b"no video")
    return root


def prepare(root, folder, kind="folder", **changes):
    options = dict(resolution=16, max_pixels=video.PIXELS, shard_size=4, max_skipped_fraction=0.2)
    return unlabelled.prepare(kind, root, ["train"], folder, **options | changes)


# --- which videos --------------------------------------------------------------------------------


def test_every_video_file_below_a_plain_folder_is_a_clip(bare, tmp_path):
    folder = prepare(bare, tmp_path)["train"]
    corpus = shards.Shards(folder)
    clips = [corpus[index] for index in range(len(corpus))]
    assert [clip.meta["file_name"] for clip in clips] == sorted(FILES)
    assert {clip.text for clip in clips} == {""} and clips[0].meta["frames"] == 12
    assert corpus.manifest["skipped"] == [
        {"file": "day 1/broken.avi", "reason": "is not a readable video"}
    ]
    assert "day 1/broken.avi" in (folder / "skipped.csv").read_text()


def test_shards_that_are_there_are_kept_until_the_videos_change(bare, tmp_path):
    def written():
        folder = prepare(root, tmp_path / "shards")["train"]
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record")}

    root = tmp_path / "videos"
    for name in FILES:
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes((bare / name).read_bytes())
    first = written()
    assert len(first) == 2 and written() == first
    (root / FILES[0]).write_bytes(square(8))
    assert written().keys() == first.keys() and written() != first


def test_of_a_folder_with_parts_and_lines_the_training_part_is_taken_captions_or_not(tmp_path):
    entries = [(f"{n}.mp4", square(shift=n), {"text": "a clip"} if n else {}) for n in range(3)]
    folder_of(tmp_path / "videos" / "train", entries)
    folder_of(tmp_path / "videos" / "val", [("unseen.mp4", square(), {})])
    (tmp_path / "videos" / "train" / "not named.mp4").write_bytes(square())
    corpus = shards.Shards(prepare(tmp_path / "videos", tmp_path / "shards")["train"])
    names = [(corpus[index].meta["file_name"], corpus[index].text) for index in range(len(corpus))]
    assert names == [("0.mp4", ""), ("1.mp4", "a clip"), ("2.mp4", "a clip")]
    with pytest.raises(sources.SourceError, match="no `text`"):  # what reads captions asks for them
        sources.split("folder", tmp_path / "videos", "train", resolution=16).texts()


def test_tar_files_need_no_captions_either(tmp_path):
    members = {"a.mp4": square(), "b.mp4": square(shift=3), "b.txt": b"a clip"}
    tar_of(tmp_path / "0.tar", members)
    corpus = shards.Shards(prepare(tmp_path, tmp_path / "shards", "webdataset")["train"])
    assert [corpus[index].text for index in range(len(corpus))] == ["", "a clip"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_names_that_are_no_text_can_be_stored(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).write_bytes(square())
    corpus = shards.Shards(prepare(tmp_path, tmp_path / "shards")["train"])
    assert corpus[0].meta["file_name"] == r"caf\xe9.mp4"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "there are no video files (.mp4, .mov, "),
        ({"a.txt": b"text"}, "there are no video files"),
        (None, "the folder cannot be read (No such file or directory); check data.root"),
        ({"a.mp4": square(1)}, "every video there is a single frame, and stage 2 learns from"),
    ],
)
def test_what_is_no_folder_of_videos_is_one_sentence(files, words, tmp_path):
    root = tmp_path / "videos"
    if files is not None:
        root.mkdir()
    for name, data in (files or {}).items():
        (root / name).write_bytes(data)
    with pytest.raises(sources.SourceError) as error:
        prepare(root, tmp_path / "shards")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_more_broken_files_than_allowed_stop_with_their_list(bare, tmp_path):
    with pytest.raises(shards.ShardError, match=r"skipped.csv or raise data.max_skipped_fraction"):
        prepare(bare, tmp_path, max_skipped_fraction=0.1)


# --- what is said --------------------------------------------------------------------------------


def test_what_there_is_to_know_of_the_videos_is_said_in_sentences(bare, tmp_path):
    folders = prepare(bare, tmp_path)
    assert unlabelled.remarks(folders, frames=3, batch=7) == [
        "6 videos of 0.2 to 1.2 s.",
        f"1 files cannot be used and were left out: {tmp_path}/train/skipped.csv says why.",
        "1 videos have fewer than 3 frames, which they repeat.",
        "There are fewer videos than the 7 clips of a batch, which shows some of them more than "
        "once, at other moments.",
    ]
    assert len(unlabelled.remarks(folders, frames=2, batch=6)) == 2


def test_long_recordings_are_to_be_cut(tmp_path):
    (tmp_path / "long.mp4").write_bytes(video.encode(moving_square(8), 0.1))
    said = unlabelled.remarks(prepare(tmp_path, tmp_path / "shards"), frames=8, batch=1)
    assert said[0] == "1 videos of 80.0 to 80.0 s." and "cut recordings" in said[1]


def test_small_videos_are_enlarged_where_that_is_asked_for(bare, tmp_path):
    """The square of a training crop then shows as much of a small video as of a large one."""
    folders = prepare(bare, tmp_path)

    def shapes(**changes):
        view = dict(frames=3, size=60, resolution=60, batch=2, mixing="alternating", seed=0)
        drawn = next(pipeline.stream(folders, {"train": 1.0}, **view | changes))["video"][0, 0]
        return len(np.unique(drawn, axis=0))

    # 16 rows are stored: padded at the border they stay 16, enlarged they become more.
    assert shapes() <= 16 < shapes(enlarge=True)


# --- the whole notebook --------------------------------------------------------------------------


def notebook(name: str, *words: str) -> Path:
    """Runs a notebook's cells here, as a kernel would: types are not checked. Its run folder."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        run.run_inline(name, ["scale=smoke", "data=folder", *words])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    tag = next(word.partition("=")[2] for word in words if word.startswith("tag="))
    return paths.OUT / "runs/.scratch" / name / tag


@pytest.fixture
def adapt(bare):
    """`adapt(weights, tag, ...)` runs 30_stage2 on the bare folder; its run folder."""

    def started(weights, tag, *words):
        given = [f"weights={weights}", f"data.root={bare}", f"tag={tag}"]
        return notebook("30_stage2", "data.max_skipped_fraction=0.2", *given, *words)

    return started


@pytest.fixture
def save(tmp_path):
    def written(model, name="w.npz"):
        checkpoints.save(model, tmp_path / name)
        return tmp_path / name

    return written


def test_one_command_fits_a_video_text_model_to_a_bare_folder_and_predictions_follow(
    adapt, save, tmp_path, capsys
):
    start = toy.video_text()
    weights = adapt(save(start), "adapted") / "weights.npz"
    said = capsys.readouterr().out
    assert "3 frames of 12x12, width 16" in said and "6 videos of 0.2 to 1.2 s" in said
    assert "no pooler" not in said
    student = checkpoints.load(weights)
    assert isinstance(student, VideoEncoder)
    known, found = (checkpoints.flatten(model) for model in (start.vision_encoder, student))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in known.items()}
    assert 0 < max(np.abs(found[name] - known[name]).max() for name in known) < 0.1
    assert {"local", "global"} <= {*pd.read_csv(weights.with_name("metrics.csv"))}

    for part in ("train", "val"):
        entries = [
            (f"{n}.mp4", square(shift=10 * n), {"label": "ab"[n % 2], "text": "a clip"})
            for n in range(4)
        ]
        folder_of(tmp_path / "labelled" / part, entries)
    words = [f"data.root={tmp_path / 'labelled'}", f"weights={weights}", "tag=adapted"]
    folder = notebook("45_own_classifier", *words, "probe.steps=3")
    classifier, classes, whose = classify.restore(folder)
    assert classes == ["a", "b"] and whose == str(weights)
    kept = checkpoints.flatten(classifier.encoder)
    assert checkpoints.digest(kept) == checkpoints.digest(found)
    p = classify.probabilities_of(classifier)(tmp_path / "labelled/val/0.mp4")
    assert p.sum() == pytest.approx(1, abs=1e-5)


def test_weights_without_a_pooler_have_the_token_loss_alone_which_is_said(adapt, save, capsys):
    weights = save(toy.encoder())
    folder = adapt(weights, "encoder")
    sentence = f"{weights} has no pooler: its tokens alone are predicted, no clip embedding.\n"
    assert sentence in capsys.readouterr().out
    assert "global" not in pd.read_csv(folder / "metrics.csv")
    assert isinstance(checkpoints.load(folder / "weights.npz"), VideoEncoder)
    with pytest.raises(SystemExit, match="has no pooler, so without stage2.local_loss nothing"):
        adapt(weights, "encoder", "ablation=no_local")


@pytest.fixture
def safetensors(monkeypatch):
    """The package, or where it is absent something that keeps arrays, too."""
    with contextlib.suppress(ImportError):
        import safetensors.numpy  # noqa: F401

        return

    def save_file(named, path, metadata):
        with open(path, "wb") as file:
            np.savez(file, **named)

    part = types.SimpleNamespace(save_file=save_file, load_file=lambda path: dict(np.load(path)))
    monkeypatch.setitem(sys.modules, "safetensors", types.SimpleNamespace(numpy=part))
    monkeypatch.setitem(sys.modules, "safetensors.numpy", part)


def test_a_training_from_an_exported_folder_that_was_stopped_ends_like_one_that_was_not(
    adapt, save, safetensors, tmp_path, monkeypatch
):
    export.export(save(toy.video_text()), tmp_path / "exported")
    weights, words = tmp_path / "exported", ["stage2.steps=8", "optim.accumulate=2"]
    undisturbed = adapt(weights, "undisturbed", *words)
    stream, noted = pipeline.stream, []

    class Batches:
        """Those of `stream`, of which `left` come before a stop; notes where it is to go on."""

        def __init__(self, iterator, left):
            self.iterator, self.left, self.get_state = iterator, left, iterator.get_state

        def __next__(self):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return next(self.iterator)

        def set_state(self, state):
            noted.append(state)
            self.iterator.set_state(state)

    def giving(left):
        @functools.wraps(stream)  # under another name it would be another training
        def patched(*given, **view):
            return Batches(stream(*given, **view), left)

        return patched

    monkeypatch.setattr(pipeline, "stream", giving(5))
    with pytest.raises(KeyboardInterrupt):
        adapt(weights, "stopped", *words)
    stopped = paths.OUT / "runs/.scratch/30_stage2/stopped"
    assert (stopped / "state/4").is_dir() and not (stopped / "weights.npz").exists()
    monkeypatch.setattr(pipeline, "stream", giving(5))  # four to train, one to look at
    assert adapt(weights, "stopped", *words) == stopped and len(noted) == 1
    for name in ("weights.npz", "metrics.csv"):
        assert (stopped / name).read_bytes() == (undisturbed / name).read_bytes(), name


# --- the words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "scale"),
    [
        ("data=folder data.root=x weights=w.npz", "adapt"),
        ("data=webdataset data.root=x weights=w.npz", "adapt"),
        ("data=folder data.root=x weights=w.npz scale=study", "study"),
        ("data=folder data.root=x weights=null", "lesson"),
        ("data=folder data.root=x", "lesson"),
        ("weights=w.npz", "lesson"),
    ],
)
def test_weights_on_videos_of_ones_own_are_adapted_unless_told_otherwise(words, scale, out):
    cfg = config.load("30_stage2", words)
    assert cfg.scale == scale and cfg.tag == f"{cfg.source}-{scale}-none-s0"
    assert cfg.command == f"python -m vplib.run 30_stage2 {words}"
    assert config.load("45_own_classifier", words.replace("weights=", "tag=x weights=")).scale == (
        "study" if scale == "study" else "lesson"
    )


def test_decoders_are_those_of_the_nearest_width():
    assert sizes.decoder_for(768) == sizes.decoder_for(1500) == sizes.DecoderSizes(512, 4, 8, 2048)
    assert sizes.decoder_for(16) == sizes.decoder_for(64) == sizes.DecoderSizes(64, 1, 4, 256)
    assert sizes.decoder_for(96).layers == 2


def test_folders_that_hold_no_exported_model_are_one_sentence(tmp_path, safetensors):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 16}))
    said = r"is no readable folder that vplib.export wrote \(.*\): give an .npz file"
    for name, message in ((tmp_path, said), (paths.ROOT / "conf", "^no weights at .*conf: ")):
        with pytest.raises(checkpoints.CheckpointError, match=message):
            checkpoints.load(name)


@pytest.mark.parametrize("kind", ["encoder", "video_text", "auxiliary"])
def test_an_exported_folder_holds_its_weights_to_the_bit(kind, save, safetensors, tmp_path):
    model = toy.encoder() if kind == "encoder" else toy.video_text(aux_layers=kind == "auxiliary")
    export.export(save(model), tmp_path / "exported")
    again = checkpoints.load(tmp_path / "exported")
    assert type(again) is type(model)
    digests = [checkpoints.digest(checkpoints.flatten(one)) for one in (again, model)]
    assert digests[0] == digests[1]


def test_a_pooler_that_was_filled_up_for_export_pools_the_same(save, safetensors, tmp_path):
    model = toy.video_text(pooler_inner=16)
    export.export(save(model), tmp_path / "exported")
    again, tokens = checkpoints.load(tmp_path / "exported"), toy.pixels(0, 2).reshape(2, -1, 16)
    known, found = (one.contrastive_vision_pooler(tokens) for one in (model, again))
    assert again.contrastive_vision_pooler.pooling_attention.query.w.shape[2] == 16
    assert toy.close(known, found)


def test_an_exported_classifier_gives_its_encoder(save, safetensors, tmp_path):
    model = toy.classifier()
    export.export(save(model), tmp_path / "exported")
    found = checkpoints.flatten(checkpoints.load(tmp_path / "exported"))
    assert checkpoints.digest(found) == checkpoints.digest(checkpoints.flatten(model.encoder))

"""Your own classifier: what is read and skipped, which clips are drawn, that nothing changes on the way to its file."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from test_sources import folder_of
from test_video import moving_square

from vplib import predict
from vplib.data import pipeline, sources, video
from vplib.evaluate import classify, heads
from vplib.model import checkpoints

CLASSES = ["falls", "rises", "turns", "waits"]


@pytest.fixture(scope="module")
def encoder():
    return toy.encoder()


@pytest.fixture(scope="module")
def tokens(encoder):
    return np.asarray(classify._tokens(encoder, toy.batch(0, clips=16)["video"]))


@pytest.fixture(scope="module")
def probe(tokens):
    return heads.train_probe(
        tokens,
        np.arange(16) % 4,
        classes=4,
        heads=2,
        epochs=2,
        batch=8,
        lr=1e-2,
        weight_decay=0.01,
        seed=0,
    )


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, probe, encoder):
    folder = tmp_path_factory.mktemp("run")
    classify.save(classify.fold(probe, encoder), CLASSES, folder)
    return folder


def test_folding_keeps_the_logits_and_leaves_probe_and_encoder_alone(probe, encoder, tokens):
    before = (
        checkpoints.digest(checkpoints.flatten(probe)),
        checkpoints.digest(checkpoints.flatten(encoder)),
    )
    assert (
        float(abs(probe.mean[...]).max()) > 0.1 and float(probe.deviation[...].min()) < 0.9
    )  # there is something to fold
    classifier = classify.fold(probe, encoder)
    logits = heads.predict(probe, tokens)
    np.testing.assert_allclose(
        classifier.projection(classifier.atten_pooler(jnp.asarray(tokens, jnp.float32))),
        logits,
        atol=1e-4,
    )
    assert (
        checkpoints.digest(checkpoints.flatten(probe)),
        checkpoints.digest(checkpoints.flatten(encoder)),
    ) == before


def test_the_file_is_a_released_classifier_and_says_what_the_probe_said(
    run_folder, probe, tokens, encoder
):
    names = checkpoints.read(run_folder / "classifier.npz")
    assert {name.split("/")[1] for name in names} == {"encoder", "atten_pooler", "projection"}
    assert {
        "params/projection/linear/kernel",
        "params/atten_pooler/pooling_attention_query",
        "params/encoder/spatial_pos_emb/emb_var",
    } <= names.keys()
    classifier, classes = classify.restore(run_folder)
    assert classes == CLASSES
    logits = classifier(jnp.asarray(toy.batch(0, clips=16)["video"]) / 255)
    np.testing.assert_allclose(
        logits, heads.predict(probe, tokens), atol=0.02
    )  # the probe's tokens are in half precision


def test_shots_are_drawn_by_seed_and_rare_classes_give_all_they_have():
    labels = np.array([0] * 20 + [1] * 5 + [2] * 2)
    rows = classify.few_shots(labels, 3, seed=0)
    assert np.bincount(labels[rows]).tolist() == [3, 3, 2] and len({*rows}) == len(rows)
    assert (classify.few_shots(labels, 3, seed=0) == rows).all() and (
        classify.few_shots(labels, 3, seed=1) != rows
    ).any()
    assert classify.few_shots(labels, None, seed=0).tolist() == [*range(27)]


def test_videos_are_seen_whole_and_enlarged_to_what_the_encoder_knows(encoder, tmp_path):
    assert classify.view(encoder) == {"frames": 3, "size": 12}
    assert classify.heads(encoder) == 2
    frames = np.zeros((6, 8, 16, 3), np.uint8)
    frames[..., 4:12, 0] = 255  # the central square, of 8 pixels
    (tmp_path / "a.mp4").write_bytes(video.encode(frames, 6))
    seen = pipeline.read_clip(tmp_path / "a.mp4", name="a", **classify.view(encoder))
    assert (
        seen.shape == (3, 12, 12, 3) and seen[:, 3:9, 3:9, 0].min() > 180 > 60 > seen[..., 2].max()
    )
    assert pipeline.read_clip(
        tmp_path / "a.mp4", name="a", frames=3, size=4, resolution=6
    ).shape == (
        3,
        4,
        4,
        3,
    )


def folder_source(tmp_path, broken: int):
    good = video.encode(moving_square(), 10)
    entries = [
        (f"{i}.mp4", good[:40] if i < broken else good, {"text": "a square", "label": "a"})
        for i in range(5)
    ]
    return sources.FolderSource(folder_of(tmp_path / "videos", entries), name="mine", max_side=48)


def test_broken_videos_are_left_out_counted_and_named(encoder, tmp_path):
    source, report = folder_source(tmp_path, 1), tmp_path / "skipped.csv"
    tokens, metas, skipped = classify.frozen_tokens(
        encoder, source, batch=3, max_skipped_fraction=0.2, report=report
    )
    assert tokens.shape == (4, 27, 16) and [meta["file_name"] for meta in metas] == [
        "1.mp4",
        "2.mp4",
        "3.mp4",
        "4.mp4",
    ]
    assert [entry["file"] for entry in skipped] == ["0.mp4"] and "0.mp4" in report.read_text()
    np.testing.assert_allclose(
        tokens, tokens[:1].repeat(4, 0), atol=1e-2
    )  # four times one video, whatever the batch


@pytest.mark.parametrize(("broken", "allowed"), [(1, 0.1), (5, 1.0)])
def test_too_many_broken_videos_are_one_sentence(encoder, tmp_path, broken, allowed):
    with pytest.raises(
        sources.SourceError,
        match=rf"^{broken} of 5 videos cannot be used .* \(first: 0\.mp4 is .*skipped\.csv, or give ",
    ):
        classify.frozen_tokens(
            encoder,
            folder_source(tmp_path, broken),
            batch=3,
            max_skipped_fraction=allowed,
            report=tmp_path / "skipped.csv",
        )


def call(monkeypatch, *words) -> int | str:
    """The exit status of `python -m vplib.predict`, or the message it ends with."""
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        predict.main()
    return caught.value.code


def test_predict_names_the_likely_classes(run_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mp4").write_bytes(video.encode(moving_square(), 10))
    assert call(monkeypatch, run_folder, tmp_path / "a.mp4") == 0
    line, err = capsys.readouterr()
    file, shown = line.rstrip("\n").split(": ")
    classes, shares = zip(*(part.rsplit(" ", 1) for part in shown.split(", ")), strict=True)
    assert file.endswith("a.mp4") and len({*classes} & {*CLASSES}) == 3 and not err
    assert [*shares] == sorted(shares, key=lambda share: -float(share[:-1]))


def test_predict_goes_on_after_a_video_that_cannot_be_read(
    run_folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "a.mp4").write_bytes(video.encode(moving_square(), 10))
    (tmp_path / "b.mp4").write_text("no video")
    assert (
        call(monkeypatch, run_folder, tmp_path / "b.mp4", tmp_path / "gone.mp4", tmp_path / "a.mp4")
        == 1
    )
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1 and "a.mp4: " in shown.out
    first, second = shown.err.splitlines()
    assert first.startswith("error: ") and "b.mp4: is not a readable video; " in first
    assert "gone.mp4: cannot be opened (No such file or directory); " in second


def test_folders_without_a_classifier_are_one_sentence(run_folder, tmp_path, monkeypatch):
    assert call(monkeypatch, tmp_path, "a.mp4").startswith(f"error: no classifier in {tmp_path}: ")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    assert "no weights at " in call(monkeypatch, tmp_path, "a.mp4")
    (tmp_path / "classifier.npz").write_bytes((run_folder / "classifier.npz").read_bytes())
    assert "classifier.npz has 4 classes and classes.json 2; " in call(
        monkeypatch, tmp_path, "a.mp4"
    )

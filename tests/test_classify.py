"""Your own classifier: what is read and skipped, which clips are drawn, that its file is exact."""

import json
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from test_video import moving_square

from vplib import predict
from vplib.data import video
from vplib.evaluate import classify, features, heads
from vplib.model import checkpoints

CLASSES = ["falls", "rises", "turns", "waits"]


@pytest.fixture(scope="module")
def encoder():
    return toy.encoder()


@pytest.fixture(scope="module")
def tokens(encoder):
    return np.asarray(features.tokens_of(encoder)(toy.batch(0, clips=16)["video"]))


@pytest.fixture(scope="module")
def probe(tokens):
    return heads.train_probe(
        tokens,
        np.arange(16) % 4,
        classes=4,
        heads=2,
        epochs=2,
        batch=8,
        learning_rate=1e-2,
        weight_decay=0.01,
        seed=0,
    )


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, probe, encoder):
    folder = tmp_path_factory.mktemp("run")
    classify.save(classify.merge_standardisation(probe, encoder), CLASSES, folder, encoder="a toy")
    return folder


def test_merging_keeps_the_logits_and_leaves_probe_and_encoder_alone(probe, encoder, tokens):
    before = (
        checkpoints.digest(checkpoints.flatten(probe)),
        checkpoints.digest(checkpoints.flatten(encoder)),
    )
    # There is something to merge.
    assert float(abs(probe.mean[...]).max()) > 0.1 and float(probe.deviation[...].min()) < 0.9
    classifier = classify.merge_standardisation(probe, encoder)
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
    classifier, classes, whose = classify.restore(run_folder)
    assert classes == CLASSES and whose == "a toy"
    logits = classifier(jnp.asarray(toy.batch(0, clips=16)["video"]) / 255)
    # The probe's tokens are in half precision.
    np.testing.assert_allclose(logits, heads.predict(probe, tokens), atol=0.02)


def test_shots_are_drawn_by_seed_and_rare_classes_give_all_they_have():
    labels = np.array([0] * 20 + [1] * 5 + [2] * 2)
    rows = classify.few_shots(labels, 3, seed=0)
    assert np.bincount(labels[rows]).tolist() == [3, 3, 2] and len({*rows}) == len(rows)
    assert (classify.few_shots(labels, 3, seed=0) == rows).all() and (
        classify.few_shots(labels, 3, seed=1) != rows
    ).any()
    assert classify.few_shots(labels, None, seed=0).tolist() == [*range(27)]


def test_probes_of_shots_take_as_many_steps_as_are_asked(tokens, probe, monkeypatch):
    taken = []

    def train(x, y, **recipe):
        taken.append((len(y), recipe))
        return probe

    monkeypatch.setattr(heads, "train_probe", train)
    settings = dict(steps=12, epochs=2, batch=8, classes=4)
    classify.train_probes(tokens, np.arange(16) % 4, shots=2, seeds=range(2), **settings)
    classify.train_probes(tokens, np.arange(16) % 4, shots=None, seeds=[5], **settings)
    assert [(clips, recipe["epochs"], recipe["seed"]) for clips, recipe in taken] == [
        (8, 12, 0),
        (8, 12, 1),
        (16, 6, 5),
    ]


def test_what_an_encoder_was_trained_on(encoder):
    assert classify.view(encoder) == {"frames": 3, "size": 12}
    assert classify.attention_heads(encoder) == 2


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
    assert file.endswith("a.mp4") and len({*classes} & {*CLASSES}) == 3
    assert re.fullmatch(r"encoder: a toy, in (float32|bfloat16)\n", err)
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
    _, first, second = shown.err.splitlines()
    assert first.startswith("error: ") and "b.mp4: is not a readable video" in first
    assert "gone.mp4: cannot be opened (No such file or directory); " in second


def test_predict_goes_on_whatever_one_file_raises(run_folder, tmp_path, monkeypatch, capsys):
    raised = {"a.mp4": ValueError("31 is not\na Type"), "b.mp4": MemoryError()}

    def fail(path):
        if path.name in raised:
            raise raised[path.name]
        return np.full(4, 0.25)

    monkeypatch.setattr(classify, "probabilities_of", lambda *_: fail)
    assert call(monkeypatch, run_folder, "a.mp4", "b.mp4", "c.mp4") == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("c.mp4: ") and shown.out.count("\n") == 1
    assert [line.split(" (")[0] for line in shown.err.splitlines()[1:]] == [
        "error: a.mp4: cannot be classified",
        "error: b.mp4: cannot be classified",
    ]
    monkeypatch.undo()
    (tmp_path / "a.mp4").mkdir()
    assert call(monkeypatch, run_folder, tmp_path / "a.mp4") == 1


def test_numbers_that_are_not_finite_are_not_shown(encoder, probe, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mp4").write_bytes(video.encode(moving_square(), 10))
    classifier = classify.merge_standardisation(probe, encoder)
    classifier.projection.linear.bias[...] = np.float32("inf")
    monkeypatch.setattr(classify, "restore", lambda folder: (classifier, CLASSES, ""))
    assert call(monkeypatch, tmp_path, tmp_path / "a.mp4") == 1
    shown = capsys.readouterr()
    assert not shown.out and "gives numbers that are not finite" in shown.err


def test_names_reach_the_terminal_as_text_only(run_folder, monkeypatch, capsys):
    names = ["re\x1b[31md", "two\nlines", "你好", "\udcff"]
    monkeypatch.setattr(classify, "restore", lambda folder: (None, names, ""))
    found = np.array([0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(classify, "probabilities_of", lambda *_: lambda path: found)
    assert call(monkeypatch, run_folder, "a.mp4") == 0
    assert capsys.readouterr().out == "a.mp4: re\\x1b[31md 40.0%, two\\nlines 30.0%, 你好 20.0%\n"


def test_folders_without_a_classifier_are_one_sentence(run_folder, tmp_path, monkeypatch):
    assert call(monkeypatch, tmp_path, "a.mp4").startswith(f"error: no classifier in {tmp_path}: ")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    assert "no weights at " in call(monkeypatch, tmp_path, "a.mp4")
    (tmp_path / "classifier.npz").write_bytes((run_folder / "classifier.npz").read_bytes())
    assert "classifier.npz has 4 classes and classes.json 2; " in call(
        monkeypatch, tmp_path, "a.mp4"
    )

"""Your own classifier: what is read and skipped, which clips are drawn, that its file is exact."""

import json
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import toy
from test_video import moving_square

from vplib import figures, files, predict
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
    monkeypatch.setattr(classify, "restore", lambda folder: (toy.classifier(), names, ""))
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


# --- over time -----------------------------------------------------------------------------------


def lit(*stretches: tuple[float, bool]) -> bytes:
    """A video of 10 frames a second: for so many seconds dark or bright, one after another."""
    shade = [190 * bright + 30 for seconds, bright in stretches for _ in range(round(10 * seconds))]
    noise = np.random.default_rng(0).integers(0, 30, (32, 32, 3), np.uint8)
    return video.encode((noise + np.uint8(value) for value in shade), 10)


@pytest.fixture(scope="module")
def light(tmp_path_factory, encoder):
    """The run folder of a classifier that tells dark from bright."""
    folder = tmp_path_factory.mktemp("light")
    clips = np.random.default_rng(0).integers(0, 30, (16, 3, 12, 12, 3), np.uint8) + 30
    clips[8:] += 190
    probe = heads.train_probe(
        np.asarray(features.tokens_of(encoder)(clips)),
        np.arange(16) // 8,
        classes=2,
        heads=2,
        epochs=30,
        batch=8,
        learning_rate=1e-2,
        weight_decay=0.0,
        seed=0,
    )
    merged = classify.merge_standardisation(probe, encoder)
    classify.save(merged, ["0", "1"], folder, encoder="a toy")
    told = {"classes": ["=dark, or\x1b[31m", "你好 \udcff"], "encoder": "a toy"}
    (folder / "classes.json").write_text(json.dumps(told))
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_planted_change_is_found_when_it_happens(light, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mp4").write_bytes(lit((6, False), (3, True), (4.5, False)))
    out = tmp_path / "new" / "out"
    assert call(monkeypatch, light, tmp_path / "a.mp4", "--timeline", out, "--window", 1) == 0
    assert listed(out) == ["a.csv", "a.pdf", "a.png"]
    table = pd.read_csv(out / "a.csv")
    dark, bright = "=dark, or\x1b[31m", r"你好 \udcff"
    assert [*table] == ["start", "end", "class", "probability", f"p_{dark}", f"p_{bright}"]
    assert table["start"].tolist() == [*range(13), 12.5]
    assert table["end"].tolist() == [*range(1, 14), 13.5]
    assert table["class"].tolist() == [dark] * 6 + [bright] * 3 + [dark] * 5
    every = table[[f"p_{dark}", f"p_{bright}"]]
    np.testing.assert_allclose(every.sum(axis=1), 1, atol=1e-5)
    assert (table["probability"] == every.max(axis=1)).all()
    shown = capsys.readouterr()
    said = r"a.mp4: =dark, or\x1b[31m 78.6%, 你好 \udcff 21.4% of 14 windows, "
    assert shown.out.endswith(f"{said}{out}/a.csv\n")
    assert "a.mp4  14/14\n" in shown.err


def test_a_video_of_one_window_gets_what_it_gets_at_once(run_folder, tmp_path):
    (tmp_path / "a.mp4").write_bytes(video.encode(moving_square(), 10))
    classifier, *_ = classify.restore(run_folder)
    found = classify.along(classifier, length=60.0, stride=60.0)(tmp_path / "a.mp4")
    expected = classify.probabilities_of(classifier)(tmp_path / "a.mp4")
    np.testing.assert_array_equal(found.values, expected[None])
    assert found.times.tolist() == [[0, pytest.approx(1.2)]]


def test_videos_of_one_name_keep_their_own_tables(light, tmp_path, monkeypatch, capsys):
    for folder, bright in (("a", True), ("b", False)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").write_bytes(lit((1, bright)))
    (tmp_path / "a" / "Clip.mov").write_bytes(lit((1, True)))
    (tmp_path / "a" / "other.mp4").write_text("no video")
    names = ("a/clip.mp4", "a/other.mp4", "b/clip.mp4", "a/Clip.mov")
    videos = [tmp_path / name for name in names]
    out = tmp_path / "out"
    assert call(monkeypatch, light, *videos, "--timeline", out) == 1
    assert [name for name in listed(out) if name.endswith("csv")] == [
        "Clip.mov.csv",
        "a_clip.csv",
        "b_clip.csv",
    ]
    first, second = (pd.read_csv(out / f"{name}_clip.csv")["class"][0] for name in "ab")
    assert first != second
    assert "other.mp4: is not a readable video" in capsys.readouterr().err


def test_a_table_that_is_there_is_left_alone(light, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mp4").write_bytes(lit((1, True)))
    (tmp_path / "a.csv").write_text("mine")
    assert call(monkeypatch, light, tmp_path / "a.mp4", "--timeline", tmp_path) == 1
    assert (tmp_path / "a.csv").read_text() == "mine" and not (tmp_path / "a.png").exists()
    assert "a.csv is there already; remove it" in capsys.readouterr().err


@pytest.mark.parametrize("fails", ["encoding", "drawing", "writing"])
def test_a_table_is_whole_or_absent(light, tmp_path, monkeypatch, capsys, fails):
    (tmp_path / "a.mp4").write_bytes(lit((6, False)))
    calls, run, write = [], classify._probabilities, files.write

    def third_time(*words, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return (run if fails == "encoding" else write)(*words, **settings)

    if fails == "drawing":
        monkeypatch.setattr(figures, "drawn", lambda fig: 1 / 0)
    else:
        place = (classify, "_probabilities") if fails == "encoding" else (files, "write")
        monkeypatch.setattr(*place, third_time)
    out = tmp_path / "out"
    assert call(monkeypatch, light, tmp_path / "a.mp4", "--timeline", out) == 1
    assert not any(name.endswith((".csv", ".tmp")) for name in listed(out))
    assert "error: " in capsys.readouterr().err
    monkeypatch.undo()
    assert call(monkeypatch, light, tmp_path / "a.mp4", "--timeline", out) == 0
    assert len(pd.read_csv(out / "a.csv")) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        (["--window", "3"], "--window and --stride are of --timeline FOLDER: add it"),
        (["--stride", "3"], "--window and --stride are of --timeline FOLDER: add it"),
        (["--timeline", "out", "--window", "0"], "'0' is no number of seconds, more than 0"),
        (["--timeline", "out", "--stride", "inf"], "'inf' is no number of seconds"),
        (["--timeline", "out", "--stride", "1s"], "'1s' is no number of seconds"),
    ],
)
def test_options_that_make_no_sense_are_told(run_folder, monkeypatch, capsys, words, message):
    assert call(monkeypatch, run_folder, "a.mp4", *words) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_the_work(run_folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    told = call(monkeypatch, run_folder, tmp_path / "a.mp4", "--timeline", tmp_path / "file")
    assert told.startswith(
        f"error: {tmp_path / 'file'} cannot be written: a file is where a folder"
    )


def test_a_long_video_seen_at_once_has_a_note(run_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mp4").write_bytes(video.encode(moving_square(61), 1))
    assert call(monkeypatch, run_folder, tmp_path / "a.mp4") == 0
    shown = capsys.readouterr()
    assert shown.out.count("%") == 3 and "--timeline" not in shown.out
    assert "a.mp4 lasts 61 s and few of its frames were seen; --timeline FOLDER" in shown.err

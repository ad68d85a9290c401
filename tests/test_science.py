"""Windows, boxes and clips meet their labels; frozen heads and specialists learn and choose alike."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import toy

from vplib.evaluate import boxes, features, heads, metrics, precision, science, tasks
from vplib.evaluate.tasks import LabelError
from vplib.evaluate.windows import Windows

RECIPE = dict(heads=2, epochs=2, batch=4, learning_rate=1e-2, weight_decay=0.01)
KINDS = ["walk", "run", "rest"]


# --- frames --------------------------------------------------------------------------------------


def film(labels: str, starts, file: str = "0.mp4", frames: int | None = None):
    """A video of 8 frames a second, a letter a frame: a and b are behaviours, . is background."""
    names = {"a": "lunge", "b": "circle", ".": "background", "?": "dance"}
    meta = {
        "file_name": file,
        "frames": frames or len(labels),
        "frame_labels": [names[letter] for letter in labels],
    }
    return meta, np.array(starts, float), len(labels) / 8


def framed(*films, values=None):
    """Windows of 8 frames; each one's value is (video, window)."""
    metas, starts, ends = zip(*films, strict=True)
    own = [np.array([[video, w] for w in range(len(s))], float) for video, s in enumerate(starts)]
    found = Windows({"x": own}, [*starts], np.array(ends), np.arange(len(films)), [])
    where = dict(background="background", length=1.0, name="flies-test")
    return science.framed(found, metas, ["lunge", "circle"], **where)


def test_a_window_learns_its_centre_frame_and_scores_the_frames_nearest_to_it():
    #                 0       8       16
    part = framed(film("aaaabbbbbbbb....", (0, 0.5, 1.0)))
    assert part.targets.tolist() == [1, 1, 2]  # frames 4, 8, 12
    # Centres at frames 4, 8 and 12: frames 0-5, 6-9, 10-15. Behaviours, and last all frames.
    assert part.truth.tolist() == [[[4, 2, 6], [0, 4, 4], [0, 2, 6]]]
    assert part.classes == ["lunge", "circle", "background"]


def test_videos_of_unequal_length_keep_their_own_windows():
    part = framed(film("aaaaaaaa", (0,)), film("bbbbbbbb........", (0, 0.5, 1.0), "1.mp4"))
    assert part.truth.shape == (2, 3, 3) and part.truth[0, 1:].sum() == 0
    assert part.rows.tolist() == [0, 3, 4, 5]
    assert part.values["x"].tolist() == [[0, 0], [1, 0], [1, 1], [1, 2]]
    assert part.truth[..., -1].sum() == 24


def test_only_videos_that_were_read_count():
    metas = [None, film("aaaaaaaa", (0,))[0]]
    found = Windows({"x": [np.zeros((1, 2))]}, [np.zeros(1)], np.ones(1), np.array([1]), [])
    where = dict(background="background", length=1.0, name="flies-test")
    part = science.framed(found, metas, ["lunge", "circle"], **where)
    assert part.targets.tolist() == [0]


def test_the_background_is_a_class_of_heads_a_negative_of_all_and_no_member_of_the_mean():
    part = framed(film("aaaabbbbbbbb....", (0, 0.5, 1.0)))

    class Says:
        """Background is likely everywhere, most in the last window; so lunge and circle are
        ranked by what is left."""

        def __call__(self, x):
            return np.log(np.array([[0.5, 0.1, 0.4], [0.2, 0.3, 0.5], [0.1, 0.2, 0.7]]))[
                x[:, 1].astype(int)
            ]

    said = np.asarray(Says()(part.values["x"]))
    probability = np.exp(said)
    found = science.ranks(probability[None, :, :2], part.truth[..., -1])
    every = np.repeat(probability, part.truth[0, :, -1], axis=0)
    labels = np.eye(3)[[0] * 4 + [1] * 8 + [2] * 4]
    expected = precision.mean_average_precision(every, labels, background=2)
    answers = tasks.Answers(science.FRAMES, found[None], part.truth)
    np.testing.assert_allclose(answers.scores(), expected, atol=1e-12)
    constant = precision.mean_average_precision(np.ones((16, 3)), labels, background=2)
    assert answers.chance() == pytest.approx(constant)


def test_labels_that_cannot_be_used_are_one_sentence():
    with pytest.raises(
        LabelError,
        match=r"^flies-test: the label 'dance' of 3.mp4 is none of lunge, circle, background: ",
    ):
        framed(film("aaaa?aaa", (0,), "3.mp4"))
    with pytest.raises(
        LabelError, match=r"^flies-test: 3.mp4 has 9 frames and 8 frame_labels: give one label a"
    ):
        framed(film("aaaaaaaa", (0,), "3.mp4", frames=9))
    with pytest.raises(LabelError, match=r"^kabr-test: the label 'fly' is none of walk, run, rest"):
        clips("kabr-test", ["walk", "fly"])


# --- average precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("interpolated", [False, True])
def test_counted_precision_is_that_of_single_cases(interpolated):
    rng = np.random.default_rng(0)
    scores = rng.integers(5, size=(4, 6, 3)) / 5  # with ties within and between videos
    cases = rng.integers(4, size=(4, 6))
    labels = rng.integers(2, size=(4, 6, 4, 3)) * (np.arange(4) < cases[..., None])[..., None]
    labels[..., 2] = 0  # a class without positives
    truth = np.concatenate([labels.sum(2), cases[..., None]], -1)
    drawn = np.array([0, 2, 2, 3, 3])  # as in a bootstrap
    there = (np.arange(4) < cases[drawn][..., None]).ravel()
    flat = np.repeat(scores[drawn], 4, axis=1).reshape(-1, 3)[there]
    of = precision.interpolated_average_precision if interpolated else precision.average_precision
    expected = of(flat, labels[drawn].reshape(-1, 3)[there])
    found = science.average_precisions(
        science.ranks(scores, cases)[drawn], truth[drawn], interpolated=interpolated
    )
    np.testing.assert_allclose(found[:2], expected[:2], atol=1e-12)
    assert np.isnan(found[2])


def test_intervals_of_average_precision_are_basic_and_paired_differences_are_not():
    rng = np.random.default_rng(0)
    truth = np.concatenate([(rng.random((12, 5, 2)) < 0.3), np.ones((12, 5, 1))], -1).astype(int)
    scores = rng.random((12, 5, 2)) + truth[..., :2]
    one = tasks.Answers(science.FRAMES, science.ranks(scores, truth[..., -1])[None], truth)
    other = tasks.Answers(science.FRAMES, science.ranks(-scores, truth[..., -1])[None], truth)
    row = tasks.row("x", one)

    def measure(repeats, videos):
        return float(one.drawn(repeats, videos).scores().mean())

    value, low, high = metrics.between(row["value"], metrics.bootstrap(measure, 1, 12))
    assert (row["low"], row["high"]) == pytest.approx((2 * value - high, 2 * value - low))
    gap = tasks.difference("x", one, other)
    assert gap["low"] < gap["value"] < gap["high"]


# --- boxes ---------------------------------------------------------------------------------------


def meta(places, labels, file="0.mp4"):
    """Boxes of three frames, of which the middle one counts."""
    moved = [[[0, 0, 1, 1], place, [0, 0, 1, 1]] for place in places]
    return {"file_name": file, "boxes": moved, "box_labels": labels}


def boxed(*metas, values=None, most=2, grid=(3, 3, 3)):
    values = {"x": np.zeros((len(metas), 27, 16), np.float16)} if values is None else values
    found = features.Features(values, np.arange(len(metas)), [])
    look = dict(grid=grid, resolution=56, size=48, most=most, name="chimps-test")
    return science.boxed(found, metas, KINDS, **look)


def test_boxes_move_with_the_central_crop():
    """A box in pixels 4 to 28 of 56 is the left half of the crop, whose first pixel is 4."""
    place = np.array([4, 10, 28, 56]) / 56
    np.testing.assert_allclose(science.cropped(place, 56, 48), [0, 6 / 48, 0.5, 1])
    np.testing.assert_allclose(science.cropped(place, 56, 56), place)
    from vplib.data import pipeline

    for resolution in (57, 44, 43):  # odd, and smaller than the crop, whose border is repeated
        frames = np.zeros((1, resolution, resolution, 3), np.uint8)
        frames[:, 20:30, 10:30] = 255
        shown = np.argwhere(pipeline.crop(frames, 48)[0, ..., 0] == 255)
        box = np.array([10, 20, 30, 30]) / resolution
        found = science.cropped(box, resolution, 48) * 48
        (top, left), (bottom, right) = shown.min(0), shown.max(0) + 1
        np.testing.assert_allclose(found, [left, top, right, bottom], atol=1e-6)


def test_a_box_has_all_its_labels_and_that_of_the_middle_frame_counts():
    part = boxed(
        meta([[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1]], [["walk", "rest"], ["run"]]),
        meta([[0.5, 0.5, 0.75, 0.75]], [["rest"]], "1.mp4"),
    )
    assert part.truth.tolist() == [
        [[1, 0, 1, 1], [0, 1, 0, 1]],
        [[0, 0, 1, 1], [0, 0, 0, 0]],
    ]
    np.testing.assert_allclose(part.boxes[0][0], (np.array([14, 14, 28, 28]) - 4) / 48)
    assert [one.tolist() for one in part.targets] == [[[1, 0, 1], [0, 1, 0]], [[0, 0, 1]]]


def test_boxes_that_are_missing_outside_or_too_many_are_one_sentence():
    place = [0.25, 0.25, 0.5, 0.5]
    for wrong in (meta([], []), {"file_name": "0.mp4"}, meta([place], [])):
        with pytest.raises(LabelError, match=r"^chimps-test: 0.mp4 has \d boxes and labels of 0: "):
            boxed(wrong)
    with pytest.raises(LabelError, match="^chimps-test: clip 0: box 0 .* not within the frame"):
        boxed(meta([[0, 0, 0.05, 0.5]], [["walk"]]))  # left of the crop
    with pytest.raises(LabelError, match="^chimps-test: clip 0 has 2 boxes but the head takes 1"):
        boxed(meta([place] * 2, [["walk"]] * 2), most=1)
    with pytest.raises(LabelError, match="^chimps-test: the label 'fly' of 0.mp4 is none of walk"):
        boxed(meta([place], [["fly"]]))


# --- clips that are read as several windows ------------------------------------------------------


def test_tokens_of_a_clip_are_means_over_its_windows():
    def run(windows):  # a token a frame
        assert windows.shape[1] == 4
        return windows[..., 0, 0, :1].astype(np.float16)

    video = np.arange(24, dtype=np.uint8).reshape(2, 12, 1, 1, 1) + np.zeros(3, np.uint8)
    tokens = science.in_windows(run, 4)(video)
    assert tokens.dtype == np.float16
    assert tokens[..., 0].tolist() == [[4, 5, 6, 7], [16, 17, 18, 19]]
    still = features.of_middle_frame(science.in_windows(run, 4))(video)
    assert (still[0] == 6).all() and (still[1] == 18).all()


# --- heads and specialists -----------------------------------------------------------------------


def clips(name="kabr-train", labels=None, count=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = labels or [KINDS[k % 3] for k in range(count)]
    values = {
        "x": rng.normal(size=(len(labels), 27, 16)).astype(np.float16),
        "pixels": rng.integers(0, 255, (len(labels), 3, 12, 12, 3), dtype=np.uint8),
    }
    found = features.Features(values, np.arange(len(labels)), [])
    return science.whole(found, labels, KINDS, name=name)


def test_macro_accuracy_leaves_out_classes_that_no_clip_shows_and_says_so():
    part = clips(labels=["walk", "walk", "run"])
    outputs = np.log([[0.7, 0.2, 0.1], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1]])
    answers = tasks.Answers(science.CLIPS, outputs[None], part.truth, part.classes)
    assert answers.metric == "macro" and answers.scores() == [0.75]
    assert answers.scores("micro").tolist() == [[1, 0, 1]]
    assert science.absent(part) == ["rest"]
    assert science.absent(framed(film("aaaaaaaa", (0,)))) == ["circle"]
    assert science.absent(boxed(meta([[0.25, 0.25, 0.5, 0.5]], [["run"]]))) == ["walk", "rest"]


def test_validation_chooses_and_the_test_part_is_asked_once_after_that():
    parts = {name: clips(name, count=6) for name in ("train", "validation", "test")}
    seen = []

    def fit(part, encoder, *, seed, rate):
        assert part is parts["train"]
        seen.append(("fit", rate, seed, encoder))
        return rate

    def outputs(head, part, encoder):
        name = next(name for name, one in parts.items() if one is part)
        seen.append((name, head, encoder))
        right = np.eye(3)[part.truth]
        # What is best on validation is worst on the test.
        good = head == (0.1 if name == "validation" else 0.3)
        return right if good else -right

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(science, "outputs", outputs)
        patch.setattr(science, "probabilities", lambda head, part, encoder: np.array([head]))
        found = science.asked(
            fit,
            *parts.values(),
            encoders=["x", "y"],
            settings=[dict(rate=r) for r in (0.3, 0.1, 0.2)],
            seeds=[5, 6],
        )
    assert seen == [
        *(("fit", rate, 5, "x") for rate in (0.3, 0.1, 0.2)),
        *(("validation", rate, "x") for rate in (0.3, 0.1, 0.2)),
        ("fit", 0.1, 6, "y"),
        ("test", 0.1, "x"),
        ("test", 0.1, "y"),
    ]
    assert [one["chosen"] for one in found.tried] == [False, True, False]
    assert found.setting == dict(rate=0.1)
    assert found.said == [0.1] and found.answers.scores().tolist() == [0, 0]
    with pytest.raises(ValueError, match="several settings need a validation part"):
        settings = [dict(rate=1), dict(rate=2)]
        science.asked(
            fit, parts["train"], None, parts["test"], encoders=["x"], settings=settings, seeds=[0]
        )


def test_what_was_asked_is_not_asked_again(tmp_path):
    part, file, calls = clips("test"), tmp_path / "state" / "kabr-x.npz", []

    def make():
        calls.append(len(calls))
        rng = np.random.default_rng(calls[-1])
        answers = tasks.Answers(part.task, rng.random((2, 12, 3)), part.truth, part.classes)
        return science.Asked(
            answers, rng.random((12, 3)), {"steps": 3}, [{"steps": 3, "chosen": True}]
        )

    def same(one, other):
        return (
            (one.answers.outputs == other.answers.outputs).all()
            and one.answers.task is other.answers.task
            and (one.answers.scores() == other.answers.scores()).all()
            and (one.said == other.said).all()
            and (one.setting, one.tried) == (other.setting, other.tried)
        )

    first = science.kept(file, "a", part, make)
    assert same(science.kept(file, "a", part, make), first) and calls == [0]
    other = science.kept(file, "b", part, make)  # of other weights, say
    assert calls == [0, 1] and not same(other, first)
    file.write_bytes(file.read_bytes()[:-200])  # as a copy may be
    assert not same(science.kept(file, "b", part, make), other) and calls == [0, 1, 2]
    assert [one.name for one in file.parent.iterdir()] == ["kabr-x.npz"]


def test_frozen_head_and_specialist_learn_from_the_same_labels_under_the_same_head(monkeypatch):
    part, given = clips(), []

    def fit(model, inputs, targets, **recipe):
        given.append((model, inputs, targets, recipe))
        return model

    monkeypatch.setattr(heads, "fit", fit)
    science.frozen(part, "x", seed=1, width=32, **RECIPE)
    own = {key: value for key, value in RECIPE.items() if key != "epochs"} | dict(steps=6)
    science.specialist(part, "pixels", sizes=toy.SIZES, seed=1, width=32, **own)
    (probe, tokens, targets, recipe), (model, videos, others, settings) = given
    assert targets is others is part.targets and len(tokens) == len(videos) == len(targets)
    assert isinstance(model.head, heads.Probe)
    shapes = [{k: v.shape for k, v in toy.leaves(head).items()} for head in (probe, model.head)]
    assert shapes[0] == shapes[1]
    assert settings["epochs"] == 2 and recipe["seed"] == settings["seed"] == 1


def test_a_specialist_of_boxes_pools_regions_as_the_frozen_head_does():
    rng = np.random.default_rng(0)
    sizes = replace(toy.SIZES, classes=0)
    videos = rng.integers(0, 255, (2, 6, 12, 12, 3), dtype=np.uint8)  # two windows
    encode = science.in_windows(features.tokens_of(toy.encoder()), 3)
    part = boxed(
        meta([[0.2, 0.3, 0.5, 0.6], [0.5, 0.5, 0.9, 0.9]], [["walk", "rest"], ["run"]]),
        meta([[0.3, 0.4, 0.8, 0.7]], [["rest"]], "1.mp4"),
        values={"pixels": videos, "x": encode(videos)},
        grid=(3, 3, 3),
    )
    recipe = dict(heads=2, seed=0, batch=2, learning_rate=1e-3, weight_decay=0.0)
    model = science.specialist(part, "pixels", sizes=sizes, steps=2, **recipe)
    frozen = science.frozen(part, "x", epochs=2, **recipe)
    shapes = [{k: v.shape for k, v in toy.leaves(head).items()} for head in (frozen, model.head)]
    assert shapes[0] == shapes[1]
    model.encoder = toy.encoder()
    said = science.probabilities(model, part, "pixels")
    alike = boxes.predict(
        model.head, part.values["x"].astype(np.float32), part.boxes, grid=part.grid
    )
    np.testing.assert_allclose(said[0], alike[0], atol=2e-3)
    np.testing.assert_allclose(said[1, :1], alike[1], atol=2e-3)


def test_both_learn_what_their_labels_show():
    """Brightness tells the class of a window; tokens hold it, too."""
    rng = np.random.default_rng(0)
    labels = [KINDS[k] for k in rng.integers(3, size=48)]
    level = np.array([KINDS.index(label) for label in labels])[:, None, None, None, None]
    videos = rng.integers(0, 60, (48, 3, 12, 12, 3), dtype=np.uint8) + (90 * level).astype(np.uint8)
    found = features.Features(
        {"pixels": videos, "x": np.asarray(features.tokens_of(toy.encoder())(videos))},
        np.arange(48),
        [],
    )
    part = science.whole(found, labels, KINDS, name="kabr")
    recipe = dict(heads=2, batch=8, learning_rate=3e-3, weight_decay=0.0)
    sizes = partial(science.specialist, sizes=toy.SIZES)
    for fit, encoder, long in ((science.frozen, "x", "epochs"), (sizes, "pixels", "steps")):
        settings = [recipe | {long: 20 if long == "epochs" else 60}]
        one = science.asked(
            fit, part, None, part, encoders=[encoder] * 2, settings=settings, seeds=[0, 1]
        )
        assert one.answers.outputs.shape == (2, 48, 3)
        assert one.answers.scores("micro").mean() > 0.8

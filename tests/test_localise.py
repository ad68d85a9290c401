"""Planted events and boxes are found, and scored video by video; what cannot be is one sentence."""

from functools import partial

import numpy as np
import pytest

from vplib.data import video
from vplib.evaluate import detection, localise, metrics, tasks

CLASSES = ("hop", "roll", "swim")
GTAD = dict(
    positions=16, epochs=40, batch=16, learning_rate=4e-3, weight_decay=1e-4, width=16, groups=4,
    bins=4, hidden=16, map_width=16,
)  # fmt: skip


CENTRES = [np.arange(16) * 2.0 + 1]  # of a video's windows


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, draws=100))


# --- when ----------------------------------------------------------------------------------------


def planted(videos: int, seed: int) -> localise.Untrimmed:
    """Windows of 2 s, one event each, during which the first feature is high; the last three are
    the probabilities of the classes, which know the right one.
    """
    rng, values, events = np.random.default_rng(seed), [], []
    for _ in range(videos):
        start, length, k = rng.integers(1, 8), rng.integers(2, 7), rng.integers(3)
        one = rng.normal(size=(16, 11)).astype(np.float32)
        one[start : start + length, 0] += 6
        one[:, 8:] = 0.05 + 0.85 * np.eye(3)[k]
        values.append(one)
        events.append([(2.0 * start, 2.0 * (start + length), CLASSES[k])])
    names = [f"{seed}-{number}" for number in range(videos)]
    blind = [np.append(0 * one[:, :8], one[:, 8:][:, [1, 2, 0]], 1) for one in values]
    told = {"sees": values, "blind": blind}
    return localise.Untrimmed(names, told, np.full(videos, 32.0), events, CENTRES * videos)


@pytest.fixture(scope="module")
def found():
    of_seed = {"sees": ["sees"] * 2, "blind": ["blind"] * 2}
    data = planted(64, 0), planted(24, 1)
    return data[1], localise.temporal(*data, of_seed, CLASSES, seeds=range(2), **GTAD)


def test_planted_events_are_found_with_their_classes_and_the_prior_only_guesses(found):
    test, judged = found
    assert [*judged] == ["sees", "blind", "prior"]
    scores = {name: one.answers.scores("map").mean() for name, one in judged.items()}
    assert scores["sees"] > 0.5 and scores["sees"] > scores["prior"] + 0.3 > scores["blind"]
    sees, prior = judged["sees"].answers, judged["prior"].answers
    assert tasks.difference("gap", sees, prior)["low"] > 0
    rows = tasks.rows("events_sees", sees)
    assert [row["name"] for row in rows] == [
        f"events_sees_{of}" for of in ("map", "map_agnostic", "ar100")
    ]
    for row in rows:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    start, end, label, _ = judged["sees"].found[0][test.names[0]][0]
    true = test.events[0][0]
    assert (start, end) == pytest.approx(true[:2], abs=2.1) and label == true[2]  # in seconds


def test_classes_do_not_hide_boundaries(found):
    """The blind one has wrong classes, and so has no hit of any; its boundaries are guesses."""
    blind = found[1]["blind"].answers
    assert blind.scores("map").max() < 0.05 < blind.scores("ar100").min()
    assert blind.scores("map_agnostic").mean() > blind.scores("map").mean()


def test_the_prior_names_classes_as_often_as_they_come_in_training():
    train, test = planted(8, 0), planted(2, 1)
    for number, events in enumerate(train.events):
        events[:] = [(*events[0][:2], "roll" if number % 4 else "hop")]
    rows = localise.temporal(train, test, {}, CLASSES, seeds=[0], **GTAD)["prior"].found[0]
    best = {label: score for *_, label, score in sorted(rows["1-0"], key=lambda row: row[-1])}
    assert best["roll"] == pytest.approx(3 * best["hop"])


def test_drawn_heads_and_videos_are_those_that_were_matched(found):
    judged, videos = found[1]["sees"], np.array([3, 3, 7])
    one = judged.answers.drawn(np.array([1]), videos)
    expected = detection.mean_average_precision(judged.matches[1], videos)
    assert one.scores().tolist() == [expected]
    alone = {name: judged.found[1][name] for name in (found[0].names[k] for k in (3, 7))}
    truth = {found[0].names[k]: found[0].events[k] for k in (3, 7)}
    again = detection.match_segments(truth, alone, classes=CLASSES)
    assert expected == pytest.approx(detection.mean_average_precision(again, np.array([0, 0, 1])))


def test_an_event_of_no_class_is_named():
    train, test = planted(4, 0), planted(2, 1)
    test.events[1][0] = (0.0, 1.0, "fly")
    with pytest.raises(
        tasks.LabelError, match=r"^there is an event 'fly', which is none of the 3 "
    ):
        localise.temporal(train, test, {}, CLASSES, seeds=[0], **GTAD)


def always(head, tokens):
    """What a probe says that does not look."""
    return np.tile(np.log(head), (len(tokens), 1))


def test_windows_are_means_of_tokens_and_then_probabilities_of_the_classes():
    tokens = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    probes = [np.array([1.0, 2, 5]), np.array([1.0, 4, 5])]
    known = tasks.Answers(
        tasks.Task({}, always), np.zeros((2, 1, 3)), np.zeros(1), ["a", "b", "c"], probes
    )
    run = localise.windowed(lambda clips: tokens, known, ["c", "a"])
    expected = np.mean([[5 / 6, 1 / 6]] * 2, 0)
    np.testing.assert_allclose(run(None)[:, :4], tokens.astype(float).mean(1))
    np.testing.assert_allclose(run(None)[:, 4:], [expected] * 2, rtol=1e-6)
    one, other = localise.windowed([lambda clips: tokens] * 2, known, ["a", "b"])  # take turns
    np.testing.assert_allclose(one(None)[0, 4:], [1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(other(None)[0, 4:], [1 / 5, 4 / 5], rtol=1e-6)
    with pytest.raises(ValueError, match="^the probe knows no class 'd', only a, b, c$"):
        localise.windowed(lambda clips: tokens, known, ["a", "d"])


def layered(videos: int, seed: int) -> localise.Untrimmed:
    """Windows whose early layer says when the event is, by one of three tokens and in a sense that
    differs from window to window, so that no mean of tokens does.
    """
    part, rng = planted(videos, seed), np.random.default_rng(seed + 9)
    values = []
    for one in part.values["sees"]:
        tokens = rng.normal(size=(16, 2, 3, 8)).astype(np.float32)
        busy = np.flatnonzero(one[:, 0] > 3)
        tokens[busy, 0, rng.integers(3, size=len(busy)), 0] += 8
        tokens[:, 0, :, 0] -= tokens[:, 0, :, 0].mean(1, keepdims=True)
        values.append(tokens)
    return part._replace(values={"layers": values})


def test_a_pooler_that_looks_at_all_layers_finds_what_the_mean_of_the_last_cannot():
    task = tasks.Task({}, always)
    known = {
        head: tasks.Answers(task, np.zeros(1), np.zeros(1), CLASSES, [p])
        for head, p in (("map", np.array([1.0, 1, 2])), ("mlap", np.array([2.0, 1, 1])))
    }
    recipe = dict(heads=2, epochs=60, batch=64, learning_rate=3e-3, weight_decay=0.0)
    given = layered(24, 0), layered(8, 1)
    train, test, of_seed = localise.attended(*given, known, CLASSES, seeds=[0, 1], **recipe)
    assert of_seed == {"map": ["map"] * 2, "mlap": ["mlap 0", "mlap 1"]}
    last = test.values["map"][0]
    np.testing.assert_allclose(last[:, :8], given[1].values["layers"][0][:, 1].mean(1), atol=1e-6)
    np.testing.assert_allclose(last[:, 8:], [[0.25, 0.25, 0.5]] * 16, rtol=1e-5)
    np.testing.assert_allclose(test.values["mlap 1"][0][:, 8:], [[0.5, 0.25, 0.25]] * 16, rtol=1e-5)

    def told(key):
        """How often the nearer mean of the training windows says whether anything happens."""
        rows = [
            (np.concatenate(part.values[key])[:, :8], np.concatenate([*map(busy, part.events)]))
            for part in (train, test)
        ]
        means = [rows[0][0][rows[0][1] == happens].mean(0) for happens in (False, True)]
        near = np.argmin([np.square(rows[1][0] - mean).sum(1) for mean in means], 0)
        return (near == rows[1][1]).mean()

    def busy(events):
        return [any(start <= at < end for start, end, _ in events) for at in CENTRES[0]]

    assert min(told("mlap 0"), told("mlap 1")) > 0.9 > told("map") + 0.15


class Source:
    """Grey videos of a second for each of these lists of facts; None is a file that is no video."""

    def __init__(self, *metas: dict | None, frames: int = 16):
        self.metas, self.frames = metas, frames

    def __len__(self):
        return len(self.metas)

    def original(self, index):
        file = video.encode(np.full((self.frames, 16, 16, 3), 99, np.uint8), 8)
        facts = self.metas[index]
        facts = {"events": [], "objects": []} if facts is None else facts
        here = {"file_name": f"{index}.mp4", "frames": self.frames, "fps": 8.0}
        return b"no video" if self.metas[index] is None else file, here | facts


def event(start=0.0, end=1.0, label="hop"):
    return {"start": start, "end": end, "label": label}


READING = dict(frames=4, size=8, resolution=16, batch=2, max_skipped_fraction=0.5)


def test_videos_that_cannot_be_read_take_their_events_with_them(tmp_path):
    source = Source(None, {"events": [event(1.0, 9.0)]}, {"events": []})
    found = localise.untrimmed(
        {"x": lambda clips: clips.mean((1, 2, 3))[..., :1]},
        source,
        name="long",
        window=1.0,
        stride=1.0,
        out=tmp_path,
        **READING,
    )
    assert found.names == ["1.mp4", "2.mp4"] and [len(one) for one in found.values["x"]] == [2, 2]
    assert found.events == [[(1.0, 9.0, "hop")], []]
    assert [one.tolist() for one in found.segments] == [[[0.5, 4.5]], []]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "^long: 0.mp4 has no list of events; "),
        ({"events": [event(), event(2, 1)]}, r"^long: 0.mp4: event 1, .* end \(after the start\)"),
        ({"events": [event(-1, 1)]}, "^long: 0.mp4: event 0, "),
        ({"events": [{"start": 0, "end": 1}]}, "^long: 0.mp4: event 0, .* has no label"),
        ({"events": [event(2.0, 3.0)]}, "^long: 0.mp4 lasts 2 s and its event 'hop' begins at 2 s"),
    ],
)
def test_events_that_cannot_be_are_one_sentence(facts, words, tmp_path):
    with pytest.raises(tasks.LabelError, match=words):
        localise.untrimmed(
            {}, Source(facts), name="long", window=1.0, stride=1.0, out=tmp_path, **READING
        )


# --- where ---------------------------------------------------------------------------------------


def thing(*place, motion="hop"):
    """A thing in every frame, where it is after the key frame of four in sixteen: in frame 10."""
    return {"motion": motion, "boxes": [[0, 0, 0.1, 0.1]] * 10 + [[*place]] * 6}


SQUARE = dict(name="near", frames=4, size=8, resolution=16)


def test_boxes_are_those_of_the_key_frame_in_the_central_square():
    objects = [
        thing(0.25, 0.5, 0.5, 1.0),
        thing(0.8, 0.0, 1, 1),
        thing(0, 0.3, 0.5, 0.4, motion="swim"),
    ]
    meta = Source({"objects": objects}).original(0)[1]
    places, labels = localise.boxes_of(meta, **SQUARE)
    assert labels == ["hop", "swim"]  # the second is outside of the square
    np.testing.assert_allclose(places, [[0, 0.5, 0.5, 1], [0, 0.1, 0.5, 0.3]])
    empty, none = localise.boxes_of(meta | {"objects": []}, **SQUARE)
    assert empty.shape == (0, 4) and none == []


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        (None, "^near: 0.mp4 has no list of objects with boxes; "),
        ([thing(0, 0, 1, 1), thing(0, 0, 1, 1.2)], "^near: 0.mp4: object 1 .* no box x0, .* 1.2"),
        ([thing(0.5, 0, 0.5, 1)], "^near: 0.mp4: object 0 has no motion, or in frame 10 no box"),
        ([{"motion": "hop", "boxes": []}], "^near: 0.mp4: object 0 "),
        ([thing(0, 0, 1, 1) | {"motion": ""}], "^near: 0.mp4: object 0 has no motion"),
    ],
)
def test_boxes_that_cannot_be_are_one_sentence(objects, words, tmp_path):
    look = {key: SQUARE[key] for key in SQUARE}
    with pytest.raises(tasks.LabelError, match=words):
        localise.key_frames(
            {}, Source({"objects": objects}), **look, out=tmp_path, batch=2, max_skipped_fraction=0
        )


def test_key_frames_are_of_the_clips_that_were_read(tmp_path):
    source = Source(None, {"objects": [thing(0.25, 0.5, 0.5, 1.0)]})
    found = localise.key_frames(
        {"x": lambda clips: clips.mean((2, 3))}, source, out=tmp_path, **SQUARE,
        batch=2, max_skipped_fraction=0.5,
    )  # fmt: skip
    assert found.names == ["1.mp4"] and found.labels == [["hop"]]
    assert found.values["x"].shape == (1, 4, 3)


def test_the_stand_in_of_a_detector_misses_moves_and_invents():
    own = [np.array([[0.2, 0.2, 0.4, 0.4], [0.6, 0.6, 0.8, 0.9]])] * 1000
    found = localise.detected(own, seed=3)
    places = np.concatenate([one for one, _ in found])
    scores = np.concatenate([one for _, one in found])
    assert len(places) == pytest.approx(1000 * (2 * 0.9 + 1.0), rel=0.05)
    overlap = np.concatenate(
        [detection.iou(one, o).max(1) for (one, _), o in zip(found, own, strict=True)]
    )
    moved = overlap < 1
    assert overlap[moved].mean() > 0.7 and (scores[moved] > 0.8).mean() > 0.9
    assert (scores[~moved] > 0.8).mean() < 0.1 < 0.5 < (scores[~moved] > 0.2).mean() < 0.8
    again = localise.detected(own, seed=3)
    assert all(
        (a == b).all()
        for pair in zip(found, again, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def framed(clips: int, seed: int) -> localise.KeyFrames:
    """Noise tokens of a grid of 6 x 6, with an object of one of two kinds left and right."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(clips, 1, 6, 6, 8)).astype(np.float16)
    places, labels = [], []
    for clip in range(clips):
        kinds = rng.integers(2, size=2)
        for x, kind in zip((0, 4), kinds, strict=True):
            tokens[clip, :, 2:4, x : x + 2, kind] += 6
        places.append(np.array([[0, 2, 2, 4], [4, 2, 6, 4]]) / 6)
        labels.append([CLASSES[kind] for kind in kinds])
    places[0], labels[0] = places[0][:0], []
    flat = tokens.reshape(clips, 36, 8)
    names = [f"{seed}-{number}" for number in range(clips)]
    return localise.KeyFrames(names, {"sees": flat, "blind": 0 * flat}, places, labels)


def test_planted_boxes_are_named_and_false_boxes_cost():
    of_seed = {"sees": ["sees"], "blind": ["blind"]}
    test = framed(40, 1)
    judged = localise.spatiotemporal(
        framed(128, 0), test, of_seed, seeds=[0], most=2, grid=(1, 6, 6), heads=2, epochs=15,
        batch=32, learning_rate=3e-3, weight_decay=0.01,
    )  # fmt: skip
    assert [*judged] == ["true", "ava", "ava_kinetics"]
    scores = {
        form: {name: float(one.answers.scores()[0]) for name, one in of.items()}
        for form, of in judged.items()
    }
    true, ava, kinetics = scores.values()
    assert true["sees"] > 0.95 > 0.6 > true["blind"] and true["prior"] == pytest.approx(
        0.5, abs=0.1
    )
    assert true["sees"] > ava["sees"] > true["prior"] and kinetics["sees"] > true["prior"]
    gap = tasks.difference("gap", judged["true"]["sees"].answers, judged["true"]["prior"].answers)
    assert gap["low"] > 0
    least = {form: min(row[7] for row in of["prior"].found[0]) for form, of in judged.items()}
    assert least["ava_kinetics"] < 0.5 * 0.5 < 0.8 * 0.4 < least["ava"]  # shares times .2 and .8
    rows = judged["ava_kinetics"]["sees"].found[0]
    assert max(sum(row[0] == name for row in rows) for name in test.names) == 2 * 2  # the best two


def test_a_box_may_have_several_labels_and_a_video_several_key_frames():
    box, hop, both = np.array([[0.1, 0.1, 0.5, 0.5]]), [("hop",)], [("hop", "swim")]
    found = localise.KeyFrames(["a", "a", "b"], {}, [box] * 3, [hop, both, [("swim",)]])
    given = [(box, np.ones(1))] * 3
    right = [[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 1.0]]]
    judged = localise._judged_boxes(found, given, ["hop", "swim"], [right, right[::-1]])
    assert judged.matches[0].videos == ["a", "b"] and judged.answers.outputs.shape == (2, 2, 2)
    perfect, other = judged.answers.scores()
    assert perfect == 1 > other
    assert {row[:2] for row in judged.found[0]} == {("a", 0), ("a", 1), ("b", 0)}
    assert localise.several("hop") == ("hop",) and localise.several(("a", "b")) == ("a", "b")

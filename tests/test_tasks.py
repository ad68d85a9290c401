"""Tasks: labels are checked first, heads answer, every metric gets its interval."""

from functools import partial

import numpy as np
import pytest
import toy

from vplib.data import shards
from vplib.evaluate import features, metrics, precision, tasks

RECIPE = dict(heads=2, epochs=2, batch=4, learning_rate=1e-2, weight_decay=0.01)


# --- labels --------------------------------------------------------------------------------------


def metas(*labels) -> list[dict]:
    return [{"file_name": f"{i}.mp4", "label": label} for i, label in enumerate(labels)]


def test_labels_stand_at_dotted_keys_as_text():
    known = [{"labels": {"motion": "spins"}}, None, {"labels": {"motion": 3}}]
    assert tasks.labels(known, "labels.motion", name="val") == ["spins", None, "3"]


def test_labels_that_differ_in_spaces_only_are_one():
    found = tasks.labels(
        metas("a b", " a  b\u00a0", "a\tb\n", "e\u0301", "\u00e9"), "label", name="val"
    )
    assert found == ["a b"] * 3 + ["\u00e9"] * 2
    assert tasks.labels(metas(["b ", "", "a"], []), "label", name="val") == [["b", "a"], []]


@pytest.mark.parametrize("wrong", [None, "", " \n", {"a": 1}])
def test_missing_and_blank_labels_are_counted_and_the_first_is_named(wrong):
    with pytest.raises(
        tasks.LabelError,
        match=r"^val: 2 of 4 clips have no label or a blank one under 'label' "
        r"\(first: clip 1, 1\.mp4\); add them to .* what is labelled\.$",
    ):
        tasks.labels(metas("a", wrong, "b", wrong), "label", name="val")


def test_labels_that_nothing_can_be_learned_from_are_one_sentence():
    kind, names = tasks.TASKS["classification"], ("train", "val")
    with pytest.raises(tasks.LabelError, match="^train: all 2 clips are of one class, 'a', so "):
        tasks.split(kind, ["a", None, "a"], ["a", "b"], names)
    with pytest.raises(
        tasks.LabelError, match=r"^val: no clip is of a class that train has \(a, b\);"
    ):
        tasks.split(kind, ["a", "b"], ["A", None], names)
    with pytest.raises(tasks.LabelError, match=r"^clip 1 has a list of labels \(a, b\) and a "):
        tasks.split(kind, ["a", ["a", "b"]], ["a"], names)


def test_clips_that_were_not_read_or_are_of_no_trained_class_are_left_out():
    found = [
        features.Features({"x": np.arange(2.0)[:, None]}, np.array([0, 2]), []),
        features.Features({"x": np.arange(3.0)[:, None]}, np.array([1, 2, 3]), []),
    ]
    labels = [["b", "lost", "a"], ["a", "b", "new", "a"]]
    kind, names = tasks.TASKS["classification"], ("train", "val")
    classes, train, test = tasks.usable(kind, labels, found, names)
    assert classes == ["a", "b"] and train.targets.tolist() == [1, 0]
    assert test.targets.tolist() == [1, 0] and test.rows.tolist() == [1, 3]
    assert test.values["x"].tolist() == [[0], [2]] and train.values["x"] is found[0].values["x"]


# --- probes --------------------------------------------------------------------------------------


class Labelled:
    """Clips of `toy.Marked` with a label each, and with several."""

    def __init__(self, corpus: shards.Shards, labels: list):
        self.corpus, self.labels, self.read = corpus, labels, 0

    def __len__(self) -> int:
        return len(self.labels)

    def original(self, index: int) -> tuple[bytes, dict]:
        self.read += 1
        video, meta = self.corpus.original(index)
        return video, meta | {
            "label": self.labels[index],
            "signs": ["late"] * (index > 3) + ["any"],
        }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> shards.Shards:
    return shards.Shards(toy.write(toy.Marked("mine", 3), tmp_path_factory.mktemp("corpus")))


def reading(out) -> dict:
    return dict(frames=3, size=12, resolution=16, batch=4, max_skipped_fraction=0.0, out=out)


WHERE = {"train": "train", "test": "val", "label": "label"}


def test_probes_of_every_task_on_every_encoder(corpus, tmp_path, monkeypatch):
    def colour(videos):
        return (videos.astype(np.float32).mean((2, 3, 4))[..., None] / 255).astype(np.float16)

    def learn(x, y, *, classes, seed, **recipe):  # a class' mean, and a seed that can be told
        return np.stack([x[y == k].mean((0, 1)) for k in range(classes)]), seed

    def nearest(head, x):
        return -np.abs(x.mean(1) - head[0][:, 0]).astype(np.float32) - head[1]

    monkeypatch.setitem(
        tasks.TASKS, "classification", tasks.Task(tasks.TOP1, nearest, tasks.class_numbers, learn)
    )
    sources = {
        part: Labelled(
            corpus, ["dark", "dark", "dark", "dark", "bright", "bright", "bright", "bright"]
        )
        for part in ("train", "val")
    }
    encoders = {"sees": colour, "blind": lambda videos: 0 * colour(videos)}
    wanted = {"light": WHERE, "again": WHERE | {"kind": "classification"}}
    answers = tasks.probe(
        wanted, sources, encoders, reading=reading(tmp_path), seeds=range(2), **RECIPE
    )
    assert [*answers] == [(e, t) for e in encoders for t in wanted]
    # What is known of a clip, then the clip itself.
    assert all(source.read == 16 for source in sources.values())
    sees, blind = answers["sees", "light"], answers["blind", "light"]
    assert sees.classes == ["bright", "dark"] and sees.outputs.shape == (2, 8, 2)
    assert sees.scores().all() and blind.scores().mean() == 0.5 == sees.chance()
    assert sees.guesses.tolist() == [[1] * 4 + [0] * 4] * 2
    assert sees.outputs[0, 0, 0] - sees.outputs[1, 0, 0] == 1  # each seed its own head
    gap = tasks.difference("gap", sees, blind)
    assert (
        gap["value"] == 50 and gap["unit"] == "points" and 0 < gap["low"] < 50 < gap["high"] < 100
    )
    table = tasks.table(answers)
    assert [*table.columns] == [
        "task",
        "encoder",
        "top1",
        "low",
        "high",
        "chance",
        "clips",
        "seeds",
    ]
    assert table["seeds"][0] == [1.0, 1.0] and table["clips"].tolist() == [8] * 4


@pytest.mark.parametrize("labels", [["a"] * 8, ["a", "b"] * 3 + [" ", "a"]])
def test_labels_are_checked_before_anything_is_encoded(corpus, tmp_path, labels):
    good, encoded = ["a", "b"] * 4, []
    for train, val in ((labels, good), (good, labels)):
        sources = {"train": Labelled(corpus, train), "val": Labelled(corpus, val)}
        if train is good and len({*labels}) == 1:
            continue  # a test part of one class is no fault
        with pytest.raises(tasks.LabelError):
            tasks.probe(
                {"label": WHERE},
                sources,
                {"x": encoded.append},
                reading=reading(tmp_path),
                seeds=[0],
                **RECIPE,
            )
    assert not encoded


def test_several_labels_a_clip_are_scored_by_the_rule_of_charades(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, draws=100))
    sources = {part: Labelled(corpus, ["a", "b"] * 4) for part in ("train", "val")}
    wanted = {"signs": WHERE | {"label": "signs", "kind": "multilabel"}}
    encoders = {
        "x": lambda videos: videos[:, :, :4, :4, 0].reshape(-1, 3, 16).astype(np.float16),
        "y": lambda videos: videos[:, :, 4:8, :4, 1].reshape(-1, 3, 16).astype(np.float16),
    }
    answers = tasks.probe(
        wanted, sources, encoders, reading=reading(tmp_path), seeds=range(2), **RECIPE
    )
    one, other = answers["x", "signs"], answers["y", "signs"]
    assert one.targets.tolist() == [[1, 0]] * 4 + [[1, 1]] * 4 and len(one.heads) == 2
    (row,) = tasks.rows("signs_x", one)
    assert row["name"] == "signs_x_map" and row["low"] <= row["value"] <= row["high"]
    expected = np.mean([precision.charades_map(outputs, one.targets) for outputs in one.outputs])
    assert row["value"] == pytest.approx(expected)
    chance = precision.random_precision(one.targets)
    assert one.chance() == pytest.approx(chance.mean()) and chance[0] == 1
    perfect = tasks.Answers(one.task, np.stack([one.targets] * 2), one.targets)
    assert tasks.row("perfect", perfect)["low"] == 1  # clips are drawn with their own targets
    same = tasks.difference("none", one, one)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)  # paired: drawn alike
    gap = tasks.difference("gap", one, other, metric="map")
    assert gap["low"] <= gap["value"] <= gap["high"] and gap["unit"] == "points"
    assert np.isfinite(tasks.table(answers).query("task == 'signs'")["map"]).all()


def test_clips_without_a_known_label_are_left_out():
    labels = [["b", "new"], "a", [], None, ["new"], ["a", "b"]]
    use, targets = tasks.class_sets(labels, ["a", "b"])
    assert use.tolist() == [True, True, False, False, False, True]
    assert targets[use].tolist() == [[0, 1], [1, 0], [1, 1]]


def test_a_basic_interval_is_the_percentile_one_mirrored_at_the_value():
    """Average precision rises when clips are drawn twice, so that its draws sit too high."""
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(1, 60, 3)), np.eye(3, dtype=int)[rng.integers(3, size=60)]
    score = tasks.MAP["map"].score
    plain, basic = (
        tasks.row("x", tasks.Answers(task, outputs, targets))
        for task in (
            tasks.Task({"map": tasks.Metric(score, None, *more)}, metrics.top1)
            for more in ((), (True,))
        )
    )
    value = basic["value"]
    assert basic["low"] == pytest.approx(2 * value - plain["high"])
    assert basic["high"] == pytest.approx(2 * value - plain["low"])
    assert plain["high"] - value > 1.05 * (value - plain["low"])  # that is: too high
    near = np.append(np.linspace(1, 2, 30), np.linspace(0, 0.9, 30))[None, :, None]
    right = (np.arange(60) < 31)[:, None].astype(int)
    row = tasks.row("x", tasks.Answers(tasks.TASKS["multilabel"], near, right))
    assert row["high"] <= 1  # a fraction stays one


def test_draws_are_made_once_and_are_the_same_for_all_answers_to_the_same_clips(monkeypatch):
    rng, asked = np.random.default_rng(0), []
    targets = np.eye(3, dtype=int)[rng.integers(3, size=30)]
    pair = [
        tasks.Answers(tasks.TASKS["multilabel"], rng.normal(size=(2, 30, 3)), targets) for _ in "ab"
    ]
    draw = metrics.bootstrap
    monkeypatch.setattr(metrics, "bootstrap", lambda *of: asked.append(of) or draw(*of, draws=50))
    gap = tasks.difference("gap", *pair)
    assert tasks.difference("gap", *pair) == gap and tasks.rows("x", pair[0]) and len(asked) == 2
    draws = np.random.default_rng(0)
    each = [(draws.integers(30, size=30), draws.integers(2, size=2)) for _ in range(50)]
    by_hand = [
        100 * np.subtract(*(one.drawn(heads, clips).scores().mean() for one in pair))
        for clips, heads in each
    ]
    assert [gap["low"], gap["high"]] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]))


def test_an_unknown_kind_of_task_is_named():
    wanted = {"signs": WHERE | {"kind": "zero_shot"}}
    words = (
        r"^data.tasks.signs is of kind 'zero_shot', .*: choose one of classification, multilabel\."
    )
    with pytest.raises(tasks.LabelError, match=words):
        tasks.probe(wanted, {}, {}, reading={}, seeds=[0])


# --- without training ----------------------------------------------------------------------------


def retrieved(texts, clips) -> dict[str, tasks.Answers]:
    own = np.arange(len(texts))
    return {
        way: tasks.answer(tasks.TASKS[way], [texts], clips, own)
        for way in ("text_to_video", "video_to_text")
    }


def test_retrieval_counts_both_directions():
    video = np.eye(6, dtype=np.float32)
    for one in retrieved(video, video).values():
        assert one.scores("r1").all() and one.scores("r5").all()
        assert (one.chance("r1"), one.chance("r5")) == (1 / 6, 5 / 6)
        assert tasks.over_chance("times", one)["value"] == pytest.approx(6)
    same = np.tile(video[:1], (6, 1))  # all texts describe video 0
    found = retrieved(same, video)
    assert found["text_to_video"].scores("r1").tolist() == [[1, 0, 0, 0, 0, 0]]
    assert not found["video_to_text"].scores("r5").any()


def test_three_candidates_are_enough():
    for one in retrieved(
        np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 0, 2]]
    ).values():
        assert one.scores("r1").mean() == pytest.approx(1 / 3)
        assert one.scores("r5").all() and one.chance("r5") == 1


def test_zero_shot_takes_the_nearest_name():
    names = np.eye(3, dtype=np.float32)[:2]
    clips = np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9], [0.8, 0.9, 0.0]], np.float32)
    _, truth = tasks.class_numbers(["a", "a", "b"], ["a", "b"])
    one = tasks.answer(tasks.TASKS["zero_shot"], [names], clips, truth, ["a", "b"])
    assert one.scores().tolist() == [[1, 0, 1]] and one.chance() == 0.5
    assert [row["name"] for row in tasks.rows("zero_shot_object", one)] == ["zero_shot_object_top1"]


def test_means_over_tasks_stay_paired():
    """Two tasks, one of which is right where the other is wrong: their mean is one half, surely."""
    hits = np.random.default_rng(0).integers(2, size=(3, 40))
    one, other = (
        tasks.Answers(
            tasks.TASKS["classification"],
            np.stack([x, 1 - x], 2).astype(np.float32),
            np.zeros(40, int),
        )
        for x in (hits, 1 - hits)
    )
    both = tasks.mean("appearance", [one, other])
    assert [both[key] for key in ("value", "low", "high")] == pytest.approx([0.5] * 3)
    assert tasks.row("one", one)["high"] - tasks.row("one", one)["low"] > 0.1
    assert metrics.interval(one.scores()) == tuple(
        tasks.row("one", one)[k] for k in ("value", "low", "high")
    )


def test_coarser_and_finer_questions_are_asked_of_the_same_answers():
    classes = ["down", "left", "right", "still", "up"]
    outputs = np.array([[[0.0, 3, 2, 1, 0], [0, 1, 2, 0, 9], [4, 0, 0, 5, 3], [1, 0, 0, 0, 2]]])
    one = tasks.Answers(tasks.TASKS["classification"], outputs, np.array([2, 1, 0, 4]), classes)
    pairs = (("left", "right"), ("up", "down"))
    kinds = tasks.grouped(one, (*pairs, ("still",)))
    assert kinds.scores().tolist() == [[1, 0, 0, 1]]  # right as left or right; left as up; ...
    assert kinds.chance() == pytest.approx((2**2 + 2**2 + 1) / 5**2)
    sense = tasks.within(one, pairs)
    # Clips of the first pair, then of the second: of left and right, both are taken for the other.
    assert sense.scores().tolist() == [[0, 0, 1, 1]] and sense.chance() == 0.5


def test_heads_take_turns_with_several_encoders_of_one_name(corpus, tmp_path, monkeypatch):
    seen = []

    def learn(x, y, *, classes, seed):
        seen.append((seed, float(x[0, 0])))
        return None

    kind = tasks.Task(tasks.TOP1, lambda head, x: np.zeros((len(x), 2)), tasks.class_numbers, learn)
    monkeypatch.setitem(tasks.TASKS, "turns", kind)
    sources = {part: Labelled(corpus, ["a", "b"] * 4) for part in ("train", "val")}
    wanted = {"letter": WHERE | {"kind": "turns"}}
    several = [lambda v, k=k: np.full((len(v), 1), k, np.float16) for k in (1, 2)]
    tasks.probe(wanted, sources, {"x": several}, reading=reading(tmp_path), seeds=range(3))
    assert seen == [(0, 1.0), (1, 2.0), (2, 1.0)]

"""The procedural world: deterministic, true to its word, no shortcuts from one frame to motion."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from vplib import code
from vplib.data import shards
from vplib.evaluate import tasks
from vplib.evaluate.features import Originals, metadata
from vplib.world import captions, corpora, drawing, scenes
from vplib.world.drawing import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

CLASSES = len(scenes.MOTION_CLASSES)
TRAIN, TEST, FRAMES = 167 * CLASSES, 67 * CLASSES, (0, 8, 15)
SPLITS = [
    *corpora.CORPORA,
    *(f"{family}/{part}" for family in corpora.EVALS for part in ("train", "validation", "test")),
]
MOVES = re.compile(
    r"\b(moves|slides|drifts|rises|sinks|spins|turns|rotates|circles|goes|shakes|trembles|pulses|grows"
    r"|stays|rests|does|zigzags|bounces|hops|gets|shrinks)\b"
)


def interval(trials: int, rate: float) -> tuple[float, float]:
    """Rates that a binomial count leaves with probability 0.001 (normal approximation)."""
    spread = 3.29 * np.sqrt(rate * (1 - rate) / trials) + 0.5 / trials
    return rate - spread, rate + spread


@pytest.mark.parametrize("corpus", SPLITS)
def test_every_corpus_gives_frames_text_and_truth(corpus):
    for index in range(6):
        frames, text, known = corpora.clip(corpus, index, resolution=32)
        length = 1 if corpus == "webli" else 16
        assert frames.shape == (length, 32, 32, 3) and frames.dtype == np.uint8 and text
        assert json.loads(json.dumps(known)) == known
        assert known["background"] in BACKGROUNDS and 0 <= known["target"] < len(known["objects"])
        for thing in known["objects"]:
            assert (
                thing["shape"] in SHAPES
                and thing["colour"] in COLOURS
                and thing["texture"] in TEXTURES
            )
            boxes = np.array(thing["boxes"])
            assert boxes.shape == (length, 4) and (boxes[:, :2] < boxes[:, 2:]).all()
            assert boxes.min() >= 0 and boxes.max() <= 1
        ends = [event["end"] for event in known["events"]]
        assert [event["start"] for event in known["events"]] == [0.0, *ends[:-1]] and ends[
            -1
        ] == length / 8
        assert 3 <= len(set(known["captions_reference"])) <= 4 and len(known["qa"]) >= 4
        assert len({thing["shape"] for thing in known["objects"]}) == len(known["objects"])


def test_clips_depend_on_nothing_but_seed_corpus_and_index():
    forwards = [corpora.clip("yt180m", index) for index in range(8)]
    for index in (5, 0, 7, 2):
        frames, text, known = corpora.clip("yt180m", index)
        assert (frames == forwards[index][0]).all() and (text, known) == forwards[index][1:]
    assert corpora.clip("yt180m", 3, seed=1)[1] != forwards[3][1]
    parts = [corpora.scene(f"motion/{part}", 3) for part in corpora.PARTS]
    assert len({str(part) for part in parts}) == 3
    subject = corpora.scene("yt180m", 2)
    assert (corpora.render(subject, only=[4, 9]) == corpora.render(subject)[[4, 9]]).all()


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match="unknown corpus 'motion/dev': choose one of ac1"):
        corpora.scene("motion/dev", 0)


def test_boxes_match_pixels():
    """The pixels that differ between a scene with and without its object span exactly the box."""
    checked = 0
    for index in range(400):
        subject = corpora.scene("events/train", index)
        here = corpora.truth(subject, frames=1)["objects"][0]["boxes"][0]
        if min(here) < 0.03 or max(here) > 0.97:
            continue  # it wraps around
        now = np.zeros(1)
        empty = drawing.backdrop(
            subject.background, subject.variant, 64, scenes.view(subject, now), now
        )
        empty = np.clip(empty * np.array(subject.tone), 0, 255)
        changed = (np.abs(corpora.render(subject, frames=1) - empty) > 1).any(-1)[0]
        rows, columns = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 64
        assert np.abs(seen - here).max() < 1.6 / 64
        checked += 1
    assert checked > 20


# --- anti-shortcut -------------------------------------------------------------------------------


def ridge(x_train, y_train, x_test):
    mean, spread = x_train.mean(0), x_train.std(0) + 1e-6
    x_train, x_test = (x_train - mean) / spread, (x_test - mean) / spread
    targets = np.eye(y_train.max() + 1)[y_train] - 1 / (y_train.max() + 1)
    weights = np.linalg.solve(
        x_train.T @ x_train + x_train.shape[1] * np.eye(x_train.shape[1]), x_train.T @ targets
    )
    return (x_test @ weights).argmax(1)


def nearest(x_train, y_train, x_test):
    mean, spread = x_train.mean(0), x_train.std(0) + 1e-6
    x_train, x_test = (x_train - mean) / spread, (x_test - mean) / spread
    return y_train[((x_train**2).sum(1) - 2 * x_test @ x_train.T).argmin(1)]


@pytest.fixture(scope="module")
def motion():
    """Scenes and classes of the motion family; the last TEST of them are from its test part."""
    found = [corpora.scene("motion/train", i) for i in range(TRAIN)] + [
        corpora.scene("motion/test", i) for i in range(TEST)
    ]
    classes = np.array(
        [scenes.MOTION_CLASSES.index(scene.objects[scene.target].motion) for scene in found]
    )
    return found, classes


def accuracy(probe, features, classes):
    features = np.asarray(features, np.float64).reshape(len(classes), -1)
    return (probe(features[:TRAIN], classes[:TRAIN], features[TRAIN:]) == classes[TRAIN:]).mean()


def test_motion_classes_are_balanced_and_unordered(motion):
    _, classes = motion
    assert (np.bincount(classes[:TRAIN]) == 167).all() and (
        np.bincount(classes[TRAIN:]) == 67
    ).all()
    assert len({tuple(block) for block in classes[: 20 * CLASSES].reshape(20, -1)}) == 20


def test_single_frames_do_not_tell_motion(motion):
    found, classes = motion
    low, high = interval(TEST, 1 / CLASSES)
    pixels = np.stack([corpora.render(scene, resolution=32, only=FRAMES) for scene in found])
    small = pixels.reshape(len(found), len(FRAMES), 16, 2, 16, 2, 3).mean((3, 5))
    for place, frame in enumerate(FRAMES):
        state = np.stack(
            [scenes.poses(scene, np.array([frame / 8]))[scene.target, 0] for scene in found]
        )
        state = np.column_stack(
            [state[:, :2], state[:, 3], np.cos(state[:, 2]), np.sin(state[:, 2])]
        )
        for probe in (ridge, nearest):
            for what, features in (("pixels", small[:, place]), ("state", state)):
                score = accuracy(probe, features, classes)
                print(
                    f"frame {frame}, {what}, {probe.__name__}: {score:.3f} (chance {low:.3f} to {high:.3f})"
                )
                assert low < score < high


def test_appearance_and_camera_do_not_tell_motion(motion):
    found, classes = motion
    looks = [
        (
            s.objects[s.target].colour,
            s.objects[s.target].texture,
            s.objects[s.target].size,
            s.background,
            s.camera,
            str(len(s.objects)),
        )
        for s in found
    ]
    words = sorted({word for look in looks for word in look})
    features = np.array([[word in look for word in words] for look in looks])
    low, high = interval(TEST, 1 / CLASSES)
    score = accuracy(ridge, features, classes)
    print(f"one-hot attributes: {score:.3f}")
    assert low < score < high


def test_the_true_displacement_tells_motion(motion):
    """Positive control: the same nearest neighbour succeeds when it is given movement."""
    found, classes = motion
    seconds = np.arange(16) / 8
    features = []
    for scene in found:
        pose = scenes.poses(scene, seconds)[scene.target] + scenes.displacement(scene.pan, seconds)
        step = (np.diff(pose[:, :2], axis=0) + 0.5) % 1 - 0.5
        turning = (step[:-1, 0] * step[1:, 1] - step[:-1, 1] * step[1:, 0]).sum()
        features.append([*step.sum(0), 100 * turning, *np.abs(step).mean(0)])
    score = accuracy(nearest, features, classes)
    print(f"true displacement: {score:.3f}")
    assert score > 0.8


# --- text ----------------------------------------------------------------------------------------


def said(text: str) -> set[str]:
    """The colours, shapes, textures and places a text names."""
    places = {"brick": "bricks", "snowy": "snow"}
    words = {places.get(word, word) for word in re.findall(r"[a-z]+", text.lower())}
    return words & {*COLOURS, *SHAPES, *TEXTURES, *BACKGROUNDS}


def shown(scene) -> set[str]:
    return {
        scene.background,
        *(getattr(thing, key) for thing in scene.objects for key in ("colour", "shape", "texture")),
    }


@pytest.mark.parametrize("corpus", corpora.CORPORA)
def test_texts_are_as_wrong_as_declared(corpus):
    rules, count = corpora.CORPORA[corpus], 1000
    texts = [corpora.text(corpus, index) for index in range(count)]
    own = [shown(corpora.scene(corpus, index)) for index in range(count)]
    rates = {
        "misaligned": rules.elsewhere,
        "hallucinated": rules.hallucinated,
        "off_topic": rules.off_topic,
        "mentions_motion": rules.motion * (1 - rules.off_topic),
    }
    for key, rate in rates.items():
        low, high = interval(count, rate)
        assert low <= np.mean([done[key] for _, done in texts]) <= high, key
    for index, (text, done) in enumerate(texts):
        assert bool(MOVES.search(text)) == done["mentions_motion"], text
        assert (done["describes"] != index) == done["misaligned"]
        # Only what is in the clip it is about, which need not be its own.
        if not done["hallucinated"]:
            assert said(text) <= shown(corpora.scene(corpus, done["describes"])), text
        if done["off_topic"]:
            assert not said(text)
    wrong = np.array(
        [bool(said(text) - truth) for (text, _), truth in zip(texts, own, strict=True)]
    )
    flagged = np.array([done["misaligned"] or done["hallucinated"] for _, done in texts])
    assert not wrong[~flagged].any() and (not flagged.any() or wrong[flagged].mean() > 0.85)


def test_captions_differ():
    for corpus, least in (
        ("ac1", 0.95),
        ("internvid", 0.95),
        ("retrieval/train", 0.99),
        ("webli", 0.5),
    ):
        texts = [corpora.text(corpus, index)[0] for index in range(500)]
        assert len(set(texts)) / len(texts) > least, corpus
    chosen = corpora.distinct("retrieval/test", 300)
    assert len({corpora.text("retrieval/test", index)[0] for index in chosen}) == len(chosen) == 300


def test_questions_are_answered_by_the_truth():
    kinds = set()
    for index in range(200):
        known = corpora.truth(corpora.scene("qa/test", index))
        kinds |= {question["kind"] for question in known["qa"]}
        by_shape = {thing["shape"]: thing for thing in known["objects"]}
        for item in known["qa"]:
            if match := re.fullmatch(r"what colour is the (\w+)\?", item["question"]):
                assert item["answer"] == by_shape[match[1]]["colour"]
            if match := re.fullmatch(r"what does the (\w+) do( first| last)?\?", item["question"]):
                steps = by_shape[match[1]]["motion"].split("_then_")
                step = steps[-1 if match[2] == " last" else 0]
                assert captions.prompts("motion", step)[0] == f"a red star {item['answer']}"
    assert kinds == {"appearance", "count", "motion", "order", "spatial"}


def test_prompts_name_the_class():
    for kind, values in (
        ("object", SHAPES),
        ("colour", COLOURS),
        ("colour object", ["red star", "orange moon"]),
    ):
        for value in values:
            assert all(value in prompt for prompt in captions.prompts(kind, value))
    for kind, values in (
        ("background", BACKGROUNDS),
        ("motion", (*scenes.MOTIONS, *scenes.FINE_CLASSES)),
        ("interaction", scenes.INTERACTIONS),
    ):
        every = [prompt for value in values for prompt in captions.prompts(kind, value)]
        assert len(every) == len(set(every)) >= 2 * len(values)


def test_the_source_encodes_clips_and_says_who_they_are():
    source = corpora.WorldSource("motion/test", 3, resolution=32, seed=5)
    clip = source[2]
    assert (source.name, len(source), len(list(source))) == ("motion-test", 3, 3)
    assert source.fingerprint != corpora.WorldSource("motion/test", 4, resolution=32).fingerprint
    length = {"fps": 8.0, "frames": 16, "duration": 2.0}
    assert clip.meta == {"corpus": "motion/test", "index": 2, "seed": 5, **length}
    assert len(clip.video) > 500 and clip.text == corpora.text("motion/test", 2, seed=5)[0]
    assert corpora.WorldSource("webli", 1)[0].meta["frames"] == 1
    chosen = corpora.WorldSource("retrieval/test", 2, unlike=True)
    vars(chosen)["indices"] = [4, 7]  # which clip it is, not its place in the shards
    assert chosen[1].meta["index"] == 7


@pytest.mark.parametrize("corpus", ["retrieval/test", "yt180m", "webli"])
def test_what_is_true_of_a_clip_is_found_again_from_its_record(tmp_path, corpus):
    source = corpora.WorldSource(corpus, 4, resolution=32, seed=3)
    shards.write(source, tmp_path, shard_size=4, workers=0, max_skipped_fraction=0)
    known = corpora.Known(shards.Shards(tmp_path))
    assert isinstance(known, Originals) and len(known) == 4
    for index in range(4):
        truth = corpora.clip(corpus, index, resolution=32, seed=3)[2]
        file, facts = known.original(index)
        assert file == known[index].video and facts["file_name"] == f"{tmp_path.name}[{index}]"
        assert [facts[key] for key in truth] == list(truth.values())
        assert [known.original(index)[1].get(key) for key in truth] == list(truth.values())
        assert facts.get("no such fact") is None
    key = "labels.object"
    objects = [corpora.scene(corpus, i, seed=3) for i in range(4)]
    objects = [scene.objects[scene.target].shape for scene in objects]
    assert tasks.labels(metadata(known), key, name=corpus) == objects


def test_labels_need_no_trajectories(monkeypatch):
    monkeypatch.delattr(corpora, "poses")
    meta = {"corpus": "motion/test", "index": 0, "seed": 0}
    assert corpora._Facts(meta)["labels"]["motion"] in scenes.MOTION_CLASSES


def test_a_new_kind_of_question_changes_no_record_and_no_fingerprint(monkeypatch):
    source = corpora.WorldSource("qa/test", 2, resolution=32)
    before, mark = [*source], source.fingerprint
    rewritten = {"captions.questions": 0, "drawing.draw": 1, "captions.describe": 1}
    for name, changes in rewritten.items():
        module, _, function = name.partition(".")

        def parsed(one, module=module, function=function, original=code._parsed):
            text = Path(code._path(one)).read_text(encoding="utf-8")
            if one == f"vplib.world.{module}":
                text = text.replace(f"def {function}(", f"def {function}(new, ")
                assert "(new, " in text
            return original(text)

        with monkeypatch.context() as patch:
            patch.setattr(code, "_module", lambda one, p=parsed: code._path(one) and p(one))
            assert (source.fingerprint != mark) == changes, name
    monkeypatch.setattr(captions, "questions", lambda scene, starts: [{"kind": "new"}])
    assert [*source] == before and corpora.truth(corpora.scene("qa/test", 0))["qa"] == [
        {"kind": "new"}
    ]


# --- colours -------------------------------------------------------------------------------------

# Linear RGB as people without one kind of cone see it: Machado, Oliveira and Fernandes (2009).
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(colours, sight):
    """CIE L*a*b* (D65) of sRGB colours in 0..255, seen with this kind of sight."""
    share = np.asarray(colours) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(SIGHT[sight]), 0, 1)
    rgb_to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
    x, y, z = (np.cbrt(np.maximum(linear @ np.transpose(rgb_to_xyz), 0.0089)) / np.cbrt((0.95047, 1, 1.08883))).T  # fmt: skip
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_every_kind_of_sight(sight):
    seen = lab([*COLOURS.values()], sight)
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)[np.triu_indices(len(seen), 1)]
    print(f"{sight}: smallest delta E {apart.min():.1f}")
    assert apart.min() > 20


def test_colours_stand_out_from_every_background():
    none, start = np.zeros((1, 2)), np.zeros(1)
    tones = [drawing.backdrop(name, 0, 64, none, start).mean((0, 1, 2)) for name in BACKGROUNDS]
    away = lab([*COLOURS.values()], "normal")[:, None] - lab(tones, "normal")
    print(f"smallest delta E to a background {np.linalg.norm(away, axis=2).min():.1f}")
    assert np.linalg.norm(away, axis=2).min() > 25

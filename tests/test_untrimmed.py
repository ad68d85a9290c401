"""Untrimmed videos: what happens when, no shortcuts to it, and sentences that say it."""

import json

import numpy as np
import pytest
from test_world import interval, nearest, ridge

from vplib.data import shards
from vplib.evaluate.features import Originals
from vplib.world import captions, corpora, records, scenes, untrimmed
from vplib.world.untrimmed import CLASSES, FAMILIES, FPS

TRAIN, TEST = 70 * len(CLASSES), 35 * len(CLASSES)
PARTS = [f"{kind}/{part}" for kind in FAMILIES for part in corpora.PARTS]


def test_videos_depend_on_nothing_but_seed_part_and_index():
    subject = untrimmed.scene("untrimmed/test", 3)
    frames = untrimmed.render(subject, resolution=16)
    assert frames.shape == (512, 16, 16, 3) and frames.dtype == np.uint8
    few = [500, 63, 64, 65, 0]
    assert (untrimmed.render(subject, resolution=16, only=few) == frames[few]).all()
    assert untrimmed.scene("untrimmed/test", 3) == subject
    others = [untrimmed.scene(part, 3) for part in PARTS]
    others += [untrimmed.scene("untrimmed/test", 3, seed=1), untrimmed.scene("untrimmed/test", 4)]
    assert len({str(other.objects) for other in others}) == len(others)
    with pytest.raises(ValueError, match="'untrimmed/dev': choose one of untrimmed/train"):
        untrimmed.scene("untrimmed/dev", 0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_events_are_as_declared(kind):
    family, found = FAMILIES[kind], []
    for index in range(50 * len(CLASSES)):
        known = untrimmed.truth(f"{kind}/train", index)
        assert json.loads(json.dumps(known)) == known
        events = known["events"]
        times = np.array([[event["start"], event["end"]] for event in events])
        lengths = times[:, 1] - times[:, 0]
        assert (times * FPS % 1 == 0).all()
        assert lengths.min() >= family.lengths[0] - 0.2 and lengths.max() <= family.lengths[1] + 0.2
        assert lengths.sum() <= family.most + 0.7 < family.seconds
        edges = np.concatenate([[0.0], times.ravel(), [family.seconds]]).reshape(-1, 2)
        assert (edges[:, 1] - edges[:, 0] >= 0.8).all()  # a second, rounded to frames
        labels = [event["label"] for event in events]
        assert sorted(set(labels)) == known["labels"]["events"] and set(labels) <= set(CLASSES)
        assert known["labels"]["event"] in labels
        found.append(labels)
    counts = np.bincount([len(labels) for labels in found], minlength=len(family.counts) + 1)[1:]
    for count, share in zip(counts, family.counts, strict=True):
        low, high = interval(len(found), share)
        assert low <= count / len(found) <= high
    if family.distinct:
        assert all(len(set(labels)) == len(labels) for labels in found)
        return
    several = [labels for labels in found if len(labels) > 1]
    assert {len(set(labels)) for labels in several} == {1, 2}
    low, high = interval(len(several), untrimmed.SECOND_CLASS)
    assert low <= np.mean([len(set(labels)) == 2 for labels in several]) <= high


def test_classes_of_videos_are_balanced():
    first = [untrimmed.scene("untrimmed/train", i) for i in range(5 * len(CLASSES))]
    first = [scene.objects[scene.target].motion for scene in first]
    assert {first.count(label) for label in CLASSES} == {5}


def world_steps(scene):
    """How far each object goes between frames, on the ground, frame sides: objects, frames - 1."""
    seconds = np.arange(round(FAMILIES[scene.kind].seconds * FPS)) / FPS
    places = scenes.poses(scene, seconds)[..., :2] + scenes.displacement(scene.pan, seconds)[:, :2]
    return np.linalg.norm((np.diff(places, axis=1) + 0.5) % 1 - 0.5, axis=-1)


def test_motion_is_seen_between_the_bounds_of_events_alone():
    """Nothing else in the video is as fast, from the first frame to the last."""
    for index in range(60):
        subject = untrimmed.scene("untrimmed/train", index)
        steps = world_steps(subject) * FPS  # frame sides a second
        inside = np.zeros(steps.shape[1], bool)
        for event in untrimmed.events(subject):
            one = steps[-1, round(event["start"] * FPS) : round(event["end"] * FPS)]
            assert one.mean() > 0.2 and one[[0, -1]].max() > 0.01
            inside[round(event["start"] * FPS) : round(event["end"] * FPS)] = True
        assert steps[:, ~inside].max() < 0.19 and steps[:-1].max(initial=0.0) < 0.19
        assert steps[-1, inside].mean() > 3 * steps[-1, ~inside].mean()


def test_pixels_change_when_an_event_begins():
    checked = 0
    for index in range(300):
        subject = untrimmed.scene("untrimmed/test", index)
        phases = subject.objects[-1].phases
        quiet = subject.camera == "still" and subject.background not in ("sea", "snow")
        at = next(k for k, phase in enumerate(phases) if phase.motion)
        if quiet and len(subject.objects) == 1 and phases[at - 1].mechanism == "still":
            start = round(phases[at].start * FPS)
            frames = untrimmed.render(subject, only=range(start - 1, start + 4)).astype(int)
            change = np.abs(np.diff(frames, axis=0)).sum((1, 2, 3))
            assert change[0] == 0 and change[1:].max() > 0
            checked += 1
    assert checked > 10


# --- anti-shortcut -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen():
    """A random moment of a random event of each video; the last TEST are of the test part."""
    rng, found = np.random.default_rng(0), []
    for part, count in (("train", TRAIN), ("test", TEST)):
        for index in range(count):
            subject = untrimmed.scene(f"untrimmed/{part}", index)
            events = untrimmed.events(subject)
            event = events[rng.integers(len(events))]
            frame = rng.integers(round(event["start"] * FPS), round(event["end"] * FPS))
            found.append((subject, int(frame), CLASSES.index(event["label"])))
    return found


def looks(scene):
    main = scene.objects[scene.target]
    return (
        main.shape,
        main.colour,
        main.texture,
        scene.background,
        scene.camera,
        len(scene.objects),
    )


def features(what, seen):
    if what == "state":
        state = [scenes.poses(s, np.array([frame / FPS]))[s.target, 0] for s, frame, _ in seen]
        return np.array([[x, y, size, angle] for x, y, angle, size in state])
    if what == "looks":
        words = sorted({word for scene, _, _ in seen for word in looks(scene)}, key=str)
        return np.array([[word in looks(scene) for word in words] for scene, _, _ in seen])
    if what == "time":
        frame = np.array([frame for _, frame, _ in seen]) / 512
        return np.stack([np.cos(k * np.pi * frame) for k in range(8)], 1)
    pixels = [untrimmed.render(scene, resolution=32, only=[frame]) for scene, frame, _ in seen]
    return np.stack(pixels).reshape(len(seen), 16, 2, 16, 2, 3).mean((2, 4)).reshape(len(seen), -1)


@pytest.mark.parametrize("what", ["state", "looks", "time", "pixels"])
def test_neither_a_frame_nor_its_time_tells_the_event(seen, what):
    values, classes = features(what, seen), np.array([label for _, _, label in seen])
    low, high = interval(TEST, 1 / len(CLASSES))
    for probe in (ridge, nearest):
        guessed = probe(np.float64(values[:TRAIN]), classes[:TRAIN], np.float64(values[TRAIN:]))
        score = (guessed == classes[TRAIN:]).mean()
        print(f"{what}, {probe.__name__}: {score:.3f} (chance {low:.3f} to {high:.3f})")
        assert low < score < high


# --- text and records ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_sentence_says_what_happens_in_its_event(kind):
    for index in range(100):
        known = untrimmed.truth(f"{kind}/test", index)
        for event in known["events"]:
            assert known["labels"]["object"] in event["sentence"]
            assert known["labels"]["colour"] in event["sentence"]
            says = [
                label
                for label in CLASSES
                if any(phrase in event["sentence"] for phrase in captions._DOES[label])
            ]
            assert says == [event["label"]]
        assert known["caption"] == " ".join(event["sentence"] for event in known["events"])
    paragraphs = [untrimmed.paragraph(f"{kind}/test", index) for index in range(200)]
    assert len(set(paragraphs)) == len(paragraphs)


def test_what_is_true_of_a_video_is_found_again_from_its_record(tmp_path):
    source = untrimmed.Untrimmed("moments/test", 2, resolution=16, seed=3)
    shards.write(source, tmp_path, shard_size=2, workers=0, max_skipped_fraction=0)
    known = records.Known(shards.Shards(tmp_path), untrimmed.truth)
    assert isinstance(known, Originals) and len(known) == 2 == len(list(source))
    for index in range(2):
        truth = untrimmed.truth("moments/test", index, seed=3)
        file, meta = known.original(index)
        length = {
            "fps": 8.0,
            "frames": 256,
            "duration": 32.0,
            "file_name": f"{tmp_path.name}[{index}]",
        }
        identity = {"corpus": "moments/test", "index": index, "seed": 3}
        assert meta == truth | length | identity
        assert file == known[index].video == source[index].video
        assert known[index].text == truth["caption"]
    assert source.name == "moments-test"
    prints = {untrimmed.Untrimmed(part, 2).fingerprint for part in PARTS} | {source.fingerprint}
    assert len(prints) == len(PARTS) + 1

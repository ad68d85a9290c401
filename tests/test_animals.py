"""Animals: long-tailed, drawn where the truth says, and told apart by how they move alone."""

import functools
import json
from collections import Counter

import numpy as np
import pytest
from test_world import interval, nearest, ridge

from vplib import code
from vplib.data import shards
from vplib.evaluate.features import Originals
from vplib.world import animals, corpora, creatures, records
from vplib.world.animals import BACKGROUND, BEHAVIOURS, FAMILIES, POSTURES

PAIRS = ("flies", "mice")


@pytest.mark.parametrize("kind", FAMILIES)
def test_videos_depend_on_nothing_but_seed_part_and_index(kind):
    family, corpus = FAMILIES[kind], f"{kind}/test"
    subject = animals.shot(corpus, 3)
    few = [20, 0, 31]
    frames = animals.render(subject, resolution=32, only=few)
    assert frames.shape == (3, 32, 32, 3) and frames.dtype == np.uint8
    assert (animals.render(animals.shot(corpus, 3), resolution=32)[few] == frames).all()
    assert len(subject.view) == family.frames
    others = [(f"{kind}/{part}", 3, 0) for part in corpora.PARTS] + [(corpus, 4, 0), (corpus, 3, 1)]
    pictures = [
        animals.render(animals.shot(name, index, seed=seed), resolution=32, only=few).tobytes()
        for name, index, seed in others
    ]
    assert len(set(pictures)) == len(others) and frames.tobytes() in pictures
    known = animals.truth(corpus, 3)
    assert json.loads(json.dumps(known)) == known == animals.truth(corpus, 3)


def test_unknown_names_are_explained():
    for ask in (animals.shot, animals.bouts, animals.behaviour, animals.truth):
        with pytest.raises(ValueError, match="'flies/dev': choose one of flies/train"):
            ask("flies/dev", 0)


# --- what happens, and how often -----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "share"), [("flies", 0.66), ("mice", 0.63)])
def test_behaviours_of_pairs_are_rare_and_long_tailed(kind, share):
    family, often = FAMILIES[kind], FAMILIES[kind].often
    videos = 4 * sum(often.values()) // family.bouts
    found, frames = Counter(), Counter()
    for index in range(videos):
        known = animals.truth(f"{kind}/train", index)
        found.update(event["label"] for event in known["events"])
        frames.update(known["frame_labels"])
        labels = [BACKGROUND] * family.frames
        for event in known["events"]:
            start, end = (round(event[key] * family.fps) for key in ("start", "end"))
            assert 0 < start < end < family.frames and set(labels[start:end]) == {BACKGROUND}
            labels[start:end] = [event["label"]] * (end - start)
            low, high = family.lengths[event["label"]]
            assert low - 0.13 <= event["end"] - event["start"] <= high + 0.13
        assert labels == known["frame_labels"]
    assert found == {label: 4 * count for label, count in often.items()}
    assert max(often.values()) >= 6 * min(often.values())
    assert abs(frames[BACKGROUND] / frames.total() - share) < 0.03
    print(kind, {label: round(count / frames.total(), 3) for label, count in frames.items()})


def test_behaviours_of_kabr_are_long_tailed():
    often = FAMILIES["kabr"].often
    found = Counter(
        animals.truth("kabr/train", i)["labels"]["behaviour"]
        for i in range(2 * sum(often.values()))
    )
    assert found == {label: 2 * count for label, count in often.items()}
    assert len(often) == 8 and max(often.values()) >= 8 * min(often.values())


def test_chimpanzees_do_several_things_at_once():
    found, boxes = Counter(), 0
    for index in range(400):
        labels = animals.chimp_labels("chimps/train", index)
        boxes += len(labels)
        for place, of in enumerate(labels):
            assert len(of) == len(set(of)) and len(set(of) & set(animals.LOCOMOTION)) == 1
            if "grooming" in of:
                assert "being_groomed" in labels[place + 1]
            if {"grooming", "being_groomed", "playing"} & set(of):
                assert "resting" in of
            found.update(of)
        assert sum("playing" in of for of in labels) in (0, 2)
    assert set(found) == set(animals.CHIMP_LABELS) and found["grooming"] == found["being_groomed"]
    assert max(found.values()) >= 5 * min(found.values()) and found.total() > 1.5 * boxes
    print({label: round(count / boxes, 3) for label, count in found.most_common()})


# --- pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_boxes_match_pixels(kind):
    """The pixels that differ between a video with and without an animal span exactly its box."""
    checked = 0
    for index in range(12):
        subject = animals.shot(f"{kind}/test", index)
        empty = subject._replace(animals=[])
        for number, parts in enumerate(subject.animals):
            alone = subject._replace(animals=[parts])
            there, nothing = (
                animals.render(one, only=[7]).astype(int)[0] for one in (alone, empty)
            )
            box = creatures.box(parts)[7]
            if kind == "chimps":
                known = animals.truth(f"{kind}/test", index)["boxes"][number]
                assert np.shape(known) == (64, 4) and np.abs(known[7] - box).max() < 1e-4
            if box.min() < 0.03 or box.max() > 0.97:
                continue
            changed = (np.abs(there - nothing) > 2).any(-1)
            rows, columns = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
            seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 56
            assert np.abs(seen - box).max() < 2 / 56
            checked += 1
    assert checked >= 5


def test_an_ellipse_covers_its_area():
    """Antialiased: the painted amount is the area, wherever it lies and however it is turned."""
    for line in (False, True):
        for at, turn in ((0.5 + 0.5j, 0.3), (0.513 + 0.491j, 1.2)):
            canvas = np.zeros((1, 64, 64, 3), np.float32)
            where = np.array([at]), creatures.turned(np.array([turn]))
            part = creatures.Part(*where, 0.2, 0.1, (200, 200, 200), rim=False, line=line)
            creatures.paint(canvas, [part])
            area = 4 * 0.1 * 0.1 + np.pi * 0.1**2 if line else np.pi * 0.2 * 0.1
            assert abs(canvas[..., 0].sum() / 200 / 64**2 / area - 1) < 0.01


def cycles(kind, index, part="train"):
    """How fast every cycle of a pair runs in every frame, turns a second, and its bouts."""
    corpus = f"{kind}/{part}"
    found = animals.bouts(corpus, index)
    rng = animals.generator(0, corpus, index)
    pair = animals._pair(rng, kind, found, FAMILIES[kind], 0.15)
    return {name: np.abs(np.diff(of)) * 8 for name, of in pair.cycles.items()}, found


@pytest.mark.parametrize("kind", PAIRS)
def test_cycles_run_fast_between_the_bounds_of_bouts_alone(kind):
    for index in range(20):
        speeds, found = cycles(kind, index)
        inside = {name: np.zeros(FAMILIES[kind].frames - 1, bool) for name in speeds}
        for bout in found:
            for name, (low, _) in BEHAVIOURS[kind][bout.label].items():
                assert speeds[name][bout.start : bout.end].min() >= low - 1e-6
                inside[name][bout.start : bout.end] = True
        for name, speed in speeds.items():
            assert speed[~inside[name]].max() <= animals._CALM[1] + 1e-6


@pytest.mark.parametrize("kind", PAIRS)
def test_pixels_change_more_within_bouts(kind):
    inside, outside = [], []
    for index in range(8):
        known = animals.truth(f"{kind}/train", index)
        labels = np.array(known["frame_labels"])[:-1]
        frames = animals.render(animals.shot(f"{kind}/train", index), resolution=32).astype(int)
        change = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
        quick = ~np.isin(labels, [BACKGROUND, "copulation"])
        inside.append(change[quick].mean())
        outside.append(change[labels == BACKGROUND].mean())
    print(kind, np.round(inside, 2), np.round(outside, 2))
    assert (np.array(inside) > 1.2 * np.array(outside)).all()


def test_the_ground_passes_an_animal_that_goes():
    for index in range(60):
        label = animals.behaviour("kabr/train", index)
        view = animals.shot("kabr/train", index).view
        way = np.abs(view[-1, 0] - view[0, 0]) / 2  # two seconds
        low, high = BEHAVIOURS["kabr"].get(label, {}).get("ground", (0.0, 0.0))
        if label != "occluded":
            assert low - 0.03 < way < high + 0.03


# --- anti-shortcut -------------------------------------------------------------------------------

EACH, EACH_TEST = 60, 45  # moments of each class, from different videos


def pair_moments(kind, part, each):
    """(video, frame, class) of a random moment of as many videos of each class; none near what
    is seen in one frame.
    """
    rng, found = np.random.default_rng(0), {}
    classes = [c for c in (BACKGROUND, *FAMILIES[kind].often) if c not in POSTURES[kind]]
    for index in range(100_000):
        bouts = animals.bouts(f"{kind}/{part}", index)
        if {bout.label for bout in bouts} & set(POSTURES[kind]) and kind == "flies":
            continue
        calm = [b for b in animals._stretches(bouts, 256) if b.label == BACKGROUND]
        away = [b for b in (*bouts, calm[rng.integers(len(calm))]) if b.label not in POSTURES[kind]]
        of = away[rng.integers(len(away))]
        found.setdefault(of.label, [])
        if len(found[of.label]) < each:
            frame = int(rng.integers(of.start, of.end))
            near = [b for b in bouts if b.label in POSTURES[kind]]
            if all(frame < b.start - 5 or frame >= b.end + 5 for b in near):
                found[of.label].append((index, frame, classes.index(of.label)))
        if all(len(found.get(c, [])) == each for c in classes):
            return sum(found.values(), [])


def kabr_moments(part, each):
    classes = [c for c in FAMILIES["kabr"].often if c not in POSTURES["kabr"]]
    found, rng = {c: [] for c in classes}, np.random.default_rng(0)
    for index in range(100_000):
        label = animals.behaviour(f"kabr/{part}", index)
        if label in found and len(found[label]) < each:
            found[label].append((index, int(rng.integers(32)), classes.index(label)))
        if all(len(moments) == each for moments in found.values()):
            return sum(found.values(), [])


def state(shot, frame):
    """Where all parts are, and how they lie."""
    parts = [creatures.chosen(one, np.array([frame])) for one in shot.animals]
    places = [(p.place[0], p.ahead[0]) for one in parts for p in one]
    sizes = [float(np.ravel(p.length)[0]) for one in parts for p in one]
    return np.concatenate([np.ravel(places).real, np.ravel(places).imag, sizes])


def picture(shot, frame):
    pixels = animals.render(shot, resolution=32, only=[frame])[0]
    return pixels.reshape(16, 2, 16, 2, 3).mean((1, 3)).ravel()


def colours(shot, frame):
    tones = [part.colour for one in shot.animals for part in one]
    place = animals.drawing.BACKGROUNDS.index(shot.ground) if isinstance(shot.ground, str) else 0
    return np.array([*np.ravel(tones), shot.tone, shot.variant, place])


@pytest.fixture(scope="module", params=[*PAIRS, "kabr"])
def moments(request):
    kind, parts = request.param, (("train", EACH), ("test", EACH_TEST))
    find = kabr_moments if kind == "kabr" else lambda *of: pair_moments(kind, *of)
    found = [(f"{kind}/{part}", *one) for part, each in parts for one in find(part, each)]
    seen = [(animals.shot(corpus, index), frame) for corpus, index, frame, _ in found]
    return kind, seen, found


@pytest.mark.parametrize("what", [state, picture, colours])
def test_no_frame_tells_behaviours_apart(moments, what):
    _, seen, found = moments
    chance(what.__name__, np.stack([what(*one) for one in seen]), [one[-1] for one in found])


def chance(what, values, classes):
    classes, values = np.array(classes), np.float64(values)
    count = classes.max() + 1
    train, test = count * EACH, count * EACH_TEST
    low, high = interval(test, 1 / count)
    for probe in (ridge, nearest):
        score = (probe(values[:train], classes[:train], values[train:]) == classes[train:]).mean()
        print(f"{what}, {probe.__name__}: {score:.3f} (chance {low:.3f} to {high:.3f})")
        assert low < score < high


def test_the_time_does_not_tell_behaviours_apart(moments):
    kind, _, found = moments
    found = [one for one in found if kind == "kabr" or one[-1] > 0]  # the edges are background
    first = min(label for *_, label in found)
    frame = np.array([frame for _, _, frame, _ in found]) / FAMILIES[kind].frames
    waves = np.stack([np.cos(k * np.pi * frame) for k in range(6)], 1)
    chance("time", waves, [label - first for *_, label in found])


@pytest.mark.parametrize("kind", PAIRS)
def test_how_fast_cycles_run_tells_behaviours_apart(kind):
    """Positive control: the same nearest neighbour succeeds when it is given movement."""
    rows, classes = [], []
    for part, each in (("train", EACH), ("test", EACH_TEST)):
        for index, frame, label in pair_moments(kind, part, each):
            speeds, _ = cycles(kind, index, part)
            rows.append([of[min(frame, 254)] for of in speeds.values()])
            classes.append(label)
    rows, classes = np.array(rows), np.array(classes)
    train = (classes.max() + 1) * EACH
    guessed = nearest(rows[:train], classes[:train], rows[train:])
    assert (guessed == classes[train:]).mean() > 0.9


@pytest.mark.parametrize(
    "labels", [("moving", "climbing"), ("eating", "object_play"), ("grooming", "playing")]
)
def test_no_frame_tells_what_a_chimpanzee_does(labels):
    """Each of two labels against animals with none of its kind: moves, holds, or is with another."""
    kinds = (
        animals.LOCOMOTION,
        ("eating", "object_play"),
        ("grooming", "being_groomed", "playing"),
    )
    others = set(next(kind for kind in kinds if labels[0] in kind)) - set(labels) - {"resting"}
    values, classes = [], []
    for part, each in (("train", EACH), ("test", EACH_TEST)):
        found, index = {0: [], 1: [], 2: []}, 0
        while any(len(rows) < each for rows in found.values()):
            doing, subject = animals.chimp_labels(f"chimps/{part}", index), None
            for place, of in enumerate(doing[:2]):
                which = [k for k, label in enumerate(labels, 1) if label in of] or [0]
                if others & set(of) or len(doing) == 2 or place or len(found[which[0]]) == each:
                    continue
                subject = subject or animals.shot(f"chimps/{part}", index)
                one = subject._replace(animals=subject.animals[place : place + 1])
                found[which[0]].append(state(one, index % 64))
            index += 1
        values += [row for rows in found.values() for row in rows]
        classes += [which for which, rows in found.items() for _ in rows]
    chance(str(labels), np.stack(values), classes)


# --- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_true_of_a_video_is_found_again_from_its_record(tmp_path, kind):
    source = animals.Animals(f"{kind}/validation", 2, resolution=16, seed=3)
    shards.write(source, tmp_path, shard_size=2, workers=0, max_skipped_fraction=0)
    known = records.Known(shards.Shards(tmp_path), animals.truth)
    assert isinstance(known, Originals) and len(known) == len(list(source)) == 2
    for index in range(2):
        truth = animals.truth(f"{kind}/validation", index, seed=3)
        file, meta = known.original(index)
        frames, fps = FAMILIES[kind].frames, FAMILIES[kind].fps
        assert (meta["frames"], meta["fps"], meta["duration"]) == (frames, fps, frames / fps)
        assert truth.items() <= meta.items() and file == source[index].video == known[index].video
        assert known[index].text == FAMILIES[kind].says
    with pytest.raises(IndexError, match=f"video 2 of {kind}/validation, which has 2"):
        source[2]


def test_a_new_fact_changes_no_record(monkeypatch):
    """Truth is recomputed: it is no part of what decides whether shards are written again."""
    original, reached = code._parsed, code.of(animals.Animals)

    def changed(function):
        @functools.cache
        def module(name):
            path = code._path(name)
            text = path and path.read_text(encoding="utf-8")
            return path and original(text.replace(f"def {function}(", f"def {function}(new, "))

        monkeypatch.setattr(code, "_module", module)
        return code.of(animals.Animals) != reached

    assert not changed("truth") and not changed("box") and changed("paint") and changed("_wave")

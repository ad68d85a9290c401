"""Public data sets of behaviour as 43_science reads them: what is seen and what is said of it agree."""

import numpy as np
import pytest
from miniatures import COLUMNS, NUMBER, ROWS, SQUARE, section, written

from vplib import paths
from vplib.data import video
from vplib.evaluate import behaviour, benchmarks, keyframes, originals
from vplib.evaluate.tasks import LabelError
from vplib.world import animals

SIZE = COLUMNS * SQUARE  # miniatures are as wide, and lower: their border is repeated
NAMES = ("calms21", "crim13", "fly_vs_fly", "chimpact", "kabr")


def seen(frame):
    """Number of the video and of the frame that a square shows."""
    top, half = (SIZE - ROWS * SQUARE) // 2, SQUARE // 2
    squares = frame.mean(-1)[top + half : top + ROWS * SQUARE : SQUARE, half::SQUARE] > 127
    code = int((squares.ravel() << np.arange(ROWS * COLUMNS)).sum())
    return code >> ROWS * COLUMNS - NUMBER, code & (1 << ROWS * COLUMNS - NUMBER) - 1


def middles(clips):
    """An encoder that says which video and frame the middle one of a clip is."""
    return np.array([[seen(clip[clip.shape[0] // 2])] for clip in clips], float)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Of a data set: its miniature, and the section `data` that reads it."""
    place, known = tmp_path_factory.mktemp("behaviour"), {}

    def of(name):
        if name not in known:
            made, out = written(name, place)
            known[name] = made, section(name, out, SIZE)
        return known[name]

    return of


def read(found, known, family, part, out):
    look = dict(frames=16, size=SIZE, resolution=SIZE, batch=4, grid=2, most=2)
    look |= dict(max_skipped_fraction=0.0, out=out, trains=part == "train", stride=4)
    source = known[family, part]
    metas = behaviour.metadata(source)
    encode = {"middles": middles}
    of = found[family]
    return behaviour.labelled(of, source, metas, encode, name=f"{family}-{part}", **look)


@pytest.mark.parametrize("name", NAMES)
def test_every_window_box_and_clip_has_the_label_of_what_it_shows(name, corpus, tmp_path):
    made, data = corpus(name)
    found, known = behaviour.public(data, frames=16, size=SIZE)
    assert [*found] == [*data["benchmarks"]]
    for (
        family,
        of,
    ) in found.items():  # as many frames as the paper's clip is long, at the video's rate
        asks = benchmarks.cells(data["benchmarks"])[family]
        assert of.length * of.fps == pytest.approx(asks.frames * asks.stride)
    for family, part in known:
        one = read(found, known, family, part, tmp_path)
        shown = one.values["middles"][:, 0].astype(int)
        assert len({*shown[:, 0]}) == len({meta["file_name"] for meta in known[family, part].metas})
        for (number, frame), target in zip(shown, one.targets, strict=True):
            plan = made.plan[number]
            if name == "chimpact":
                [(_, true)] = plan["boxes"][float(frame)]
                names = {1: "moving", 2: "climbing", 3: "resting"}
                assert [one.classes[k] for k in np.flatnonzero(target[0])] == [names[true[0]]]
            else:
                said = plan["frames"][frame] or ["background"]
                assert one.classes[target] == said[0]


def test_every_frame_of_a_video_is_scored_once(corpus, tmp_path):
    made, data = corpus("crim13")
    found, known = behaviour.public(data, frames=16, size=SIZE)
    part = read(found, known, "side", "test", tmp_path)
    assert part.truth[..., -1].sum() == 60 and part.classes == ["approach", "attack", "other"]
    [meta] = known["side", "test"].metas
    numbers = {int(seen_in) for seen_in in part.values["middles"][:, 0, 0]}
    [plan] = [made.plan[number] for number in numbers]
    assert meta["frame_labels"] == [one[0] for one in plan["frames"]]
    assert part.truth[..., 0].sum() == meta["frame_labels"].count("approach")


def test_halves_by_name_where_the_annotations_name_no_parts(corpus):
    _, data = corpus("crim13")
    _, known = behaviour.public(data, frames=16, size=SIZE)
    files = {key: {meta["file_name"] for meta in source.metas} for key, source in known.items()}
    assert [*files] == [(view, part) for view in ("side", "top") for part in ("train", "test")]
    assert not files["side", "train"] & files["side", "test"]
    assert all("side" in file for file in files["side", "train"] | files["side", "test"])


def test_several_behaviours_at_once_are_all_scored_and_the_rarest_is_learned(corpus, tmp_path):
    _, data = corpus("fly_vs_fly")
    found, known = behaviour.public(data, frames=16, size=SIZE)
    source = known["frames", "test"]
    shown = source.metas[0]["shown"]
    shown[:, 0] = 1  # a lunge in every frame
    shown[:, -1] = 0
    part = read(found, known, "frames", "test", tmp_path)
    assert part.truth[..., 0].sum() == 64 and part.truth[..., 1].sum() == shown[:, 1].sum() > 0
    assert 1 in part.targets and 0 in part.targets


def test_without_two_videos_there_is_nothing_to_learn_and_to_ask(corpus, tmp_path):
    _, data = corpus("calms21")
    with pytest.raises(LabelError, match=r"there are no two files of CalMS21, one to .*\.$"):
        behaviour.public(data | {"root": str(tmp_path)}, frames=16, size=SIZE)
    assert behaviour.public({"root": "nowhere"} | dict(resolution=8), frames=16, size=8) == ({}, {})


def test_another_word_in_a_line_is_another_data_set(corpus):
    _, data = corpus("kabr")
    before = behaviour.fingerprint(data)
    path = paths.ROOT / data["root"] / "val" / "metadata.jsonl"
    path.write_text(path.read_text().replace("Graze", "Gaze"))
    assert behaviour.fingerprint(data) != before
    path.write_text(path.read_text().replace("Gaze", "Graze"))
    assert behaviour.fingerprint(data) == before


def test_families_of_the_world_have_the_forms_of_the_papers():
    data = {"clip_frames": 16, "fps": 8.0}
    found = behaviour.drawn(animals.FAMILIES, animals.CHIMP_LABELS, data)
    assert [(of.form, of.windows) for of in found.values()] == [
        *[("frames", 1)] * 2,
        ("boxes", 4),
        ("clips", 1),
    ]
    assert found["chimps"].classes == animals.CHIMP_LABELS


@pytest.mark.parametrize(("name", "span"), [("ava22", 64), ("chimpact", 64)])
def test_a_clip_has_its_key_frame_in_the_middle_and_repeats_the_ends(name, span, corpus):
    made, data = corpus(name)
    cell = data["benchmarks"]["boxes"]
    data = data | {"benchmarks": {"boxes": cell}}
    for source in keyframes.parts(data, frames=16, size=SIZE).values():
        for index, meta in enumerate(source.metas):
            frames = video.decode(source.original(index)[0], name="clip").frames
            assert frames.shape == (16, SIZE, SIZE, 3)
            number, key = seen(frames[8])
            assert key == meta["moment"]
            wanted = np.clip(
                key + (np.arange(16) - 8) * span // 16, 0, made.plan[number]["count"] - 1
            )
            assert [seen(one) for one in frames] == [(number, at) for at in wanted]


def test_boxes_lie_in_the_square_as_people_do():
    assert originals.placed((0.0, 0.0, 1.0, 1.0), 200, 100) == [0.0, 0.25, 1.0, 0.75]
    assert originals.placed((0.1, -0.2, 0.5, 0.5), 100, 100) == pytest.approx([0.1, 0, 0.5, 0.5])
    assert originals.placed((0.5, 0.0, 1.0, 0.2), 100, 400) == pytest.approx([0.5, 0, 0.625, 0.2])


def test_only_scored_actions_of_a_box_are_labels(corpus):
    _, data = corpus("ava22")
    source = keyframes.parts(data, frames=16, size=SIZE)["val"]
    labels = {label for meta in source.metas for one in meta["labels"] for label in one}
    assert labels == {"sit", "run/jog", "swim"}
    last = source.metas[-1]  # falling down is not scored, but a box is there
    assert (last["moment"], last["labels"], len(last["places"])) == (20.0, [[]], 1)

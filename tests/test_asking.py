"""Questions need their videos: texts alone tell nothing, and answers are what is true."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from vplib.data import shards, video
from vplib.world import asking, captions, drawing, families, scenes

MANY = 3000


@pytest.fixture(scope="module")
def asked():
    """Every question of many clips, with its clip's scene."""
    subjects = [asking.scene("asked/train", index) for index in range(MANY)]
    return [(one, subject) for subject in subjects for one in asking.questions(subject)]


def test_every_kind_is_asked_and_every_answer_equally_often_whatever_the_question_names(asked):
    """Of each form of question (its words without the names in it) and of each question itself."""
    names = [*drawing.SHAPES, *drawing.COLOURS]
    motions = sorted({captions._does(m) for m in scenes.MOTIONS}, key=len, reverse=True)
    blank = re.compile(rf"\b({'|'.join(map(re.escape, [*motions, *names]))})\b")
    by_form, by_question = defaultdict(Counter), defaultdict(Counter)
    for one, _ in asked:
        by_form[blank.sub("_", one["question"])][one["answer"]] += 1
        by_question[one["question"]][one["answer"]] += 1
    assert {one["kind"] for one, _ in asked} == {*asking.KINDS}
    assert len(by_form) == 11
    for form, answers in by_form.items():
        counts = np.array([*answers.values()])
        share = counts / counts.sum()
        error = 4 * np.sqrt(share.mean() / counts.sum())  # four standard deviations
        assert len(counts) >= 2 and abs(share - 1 / len(counts)).max() < error, (form, answers)
    for question, answers in by_question.items():
        (form,) = {blank.sub("_", question)}
        total, classes = sum(answers.values()), len(by_form[form])
        most = max(answers.values())
        # A shape is no other's shape: where it is named, one answer less is left.
        assert most / total < 1 / max(classes - 1, 1) + 5 / np.sqrt(total * classes), question


def test_answers_are_what_is_true(asked):
    said = defaultdict(set)
    for one, subject in asked:
        things, kind = subject.objects, one["kind"]
        by_shape = {thing.shape: thing for thing in things}
        assert len(by_shape) == len({thing.colour for thing in things}) == len(things)
        if kind == "bound":
            what, does = re.fullmatch(
                r"what (\w+) is the object that (.*)\?", one["question"]
            ).groups()
            (thing,) = [thing for thing in things if captions._does(thing.motion) == does]
            assert one["answer"] == getattr(thing, what) and len(things) > 1
        elif kind == "count":
            assert one["answer"] == ("one", "two", "three")[len(things) - 1]
        elif kind == "order":
            shape, which = re.fullmatch(
                r"what does the (\w+) do (first|last)\?", one["question"]
            ).groups()
            steps = by_shape[shape].motion.split("_then_")
            assert len(steps) == 2 and one["answer"] == captions._does(steps[which == "last"])
        elif kind == "motion":
            (shape,) = re.fullmatch(r"what does the (\w+) do\?", one["question"]).groups()
            assert one["answer"] == captions._does(by_shape[shape].motion)
        elif kind == "together":
            assert one["answer"] == subject.interaction.replace("_", " ")
        said[kind].add(one["answer"])
    assert len(said["motion"]) == 9 and len(said["order"]) == 4 and len(said["together"]) == 6


def test_parts_are_disjoint_and_clips_depend_on_nothing_but_seed_part_and_index():
    known = asking.truth("asked/test", 3)
    assert json.loads(json.dumps(known)) == known == asking.truth("asked/test", 3)
    others = [
        ("asked/train", 3, 0),
        ("asked/validation", 3, 0),
        ("asked/test", 8, 0),
        ("asked/test", 3, 1),
    ]
    scenes_ = {str(asking.scene(*of[:2], seed=of[2])) for of in others}
    assert len(scenes_ | {str(asking.scene("asked/test", 3))}) == 5
    for name in ("asked/dev", "qa/train", "asked"):
        with pytest.raises(
            ValueError, match=f"^unknown corpus '{name}': choose one of asked/train"
        ):
            asking.scene(name, 0)


def test_shards_hold_the_clips_and_their_questions(tmp_path):
    source = families.source("asked/test", 5, seed=2, resolution=32, frames=16, fps=8.0)
    shards.write(source, tmp_path / "asked", shard_size=8, workers=0, max_skipped_fraction=0.0)
    known = families.known(shards.Shards(tmp_path / "asked"))
    kinds = set()
    for index in range(5):
        file, meta = known.original(index)
        assert video.decode(file, name="").frames.shape == (16, 32, 32, 3)
        assert meta["qa"] == asking.truth("asked/test", index, seed=2)["qa"] and meta["qa"]
        assert len(meta["captions_reference"]) >= 3
        kinds |= {one["kind"] for one in meta["qa"]}
    assert {"order", "together", "motion", "count"} <= kinds

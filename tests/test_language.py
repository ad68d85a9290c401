"""Video-language tasks: planted embeddings whose right answers are known, chance, bad input."""

from functools import partial

import numpy as np
import pytest
import toy
from test_windows import FPS, Videos, shown

from vplib.data import text
from vplib.evaluate import features, language, ranking, tasks
from vplib.evaluate.tasks import LabelError
from vplib.world import captions, choices, corpora, scenes

RNG = np.random.default_rng(0)


def unit(*shape):
    vectors = RNG.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def answer(task, texts, clips, targets):
    return tasks.answer(language.TASKS[task], [texts], clips, np.asarray(targets))


def values(one):
    return [float(row["value"]) for row in tasks.rows("x", one)]


# --- several captions a clip ---------------------------------------------------------------------


def test_every_caption_is_a_query_and_any_caption_finds_its_text():
    clips = np.eye(8)
    texts = np.stack([clips] * 4, 1)  # C N E: each clip's captions are like it...
    texts[2, :3], texts[5, :] = clips[3], clips[6]  # ...but three of clip 2 and all of clip 5
    t2v = answer("texts_to_video", texts, clips, range(8))
    assert t2v.scores("r1")[0].tolist() == [1, 1, 0.25, 1, 1, 0, 1, 1]
    v2t = answer("video_to_texts", texts, clips, range(8))
    # Clips 3 and 6 have as many as eight captions like them: ties count against the model.
    assert v2t.scores("r1")[0].tolist() == [1, 1, 1, 0, 1, 0, 0, 1]
    assert v2t.scores("r5")[0].tolist() == [1, 1, 1, 1, 1, 0, 1, 1]


def test_several_captions_agree_with_the_functions_of_ranking():
    clips, texts = unit(12, 6), unit(12, 3, 6)
    right = np.repeat(np.arange(12), 3) == np.arange(12)[:, None]
    similarity = clips @ texts.reshape(36, 6).T
    v2t, t2v = (answer(task, texts, clips, range(12)) for task in [*language.TASKS][1::-1])
    for k in (1, 5):
        expected = ranking.recall_of_any(similarity, right, k=k)
        assert (v2t.scores(f"r{k}")[0] == expected).all()
        assert v2t.chance(f"r{k}") == pytest.approx(ranking.recall_chance(right, k=k))
        queries = ranking.recall_of_any(similarity.T, right.T, k=k).reshape(12, 3).mean(1)
        assert t2v.scores(f"r{k}")[0] == pytest.approx(queries)
        assert t2v.chance(f"r{k}") == k / 12
    assert v2t.drawn(np.array([0]), np.array([4, 4, 1])).scores("r5").shape == (1, 3)


def test_captions_are_as_many_for_every_clip():
    def metas(*counts):
        return [
            {"file_name": f"{i}.mp4", "captions_reference": ["a"] * n} for i, n in enumerate(counts)
        ]

    assert language.references(metas(2, 2), name="val") == [["a", "a"]] * 2
    with pytest.raises(
        LabelError, match=r"^val: clip 1, 1\.mp4, has 3 captions .* and 2 are needed: give every"
    ):
        language.references(metas(2, 3), name="val")
    with pytest.raises(LabelError, match=r"^val: clip 0, 0\.mp4, has 0 captions .* one or more"):
        language.references([{"file_name": "0.mp4"}], name="val")


# --- long videos ---------------------------------------------------------------------------------


def told(*events, duration=8.0):
    fields = ("start", "end", "sentence")
    return {
        "file_name": "a.mp4",
        "duration": duration,
        "events": [dict(zip(fields, event, strict=False)) for event in events],
    }


def test_moments_are_read_or_refused_in_one_sentence():
    found = language.moments([told((1, 3, "It sinks."), (4, 8, "It rises.")), None], name="test")
    assert found.times[0].tolist() == [[1, 3], [4, 8]] and found.times[1].shape == (0, 2)
    assert found.sentences == [["It sinks.", "It rises."], []]
    for wrong, words in {
        (3, 3, "a"): "an event from 3 to 3 s: it must begin before it ends",
        (3, 2, "a"): "an event from 3 to 2 s",
        (-1, 2, "a"): "an event from -1 to 2 s",
        (7, 9, "a"): "an event from 7 to 9 s.*within the video's 8 s; correct 'events'",
        (1, 2, " "): "no sentence for its event from 1 to 2 s: add it",
        (1, 2): "no sentence for its event",
    }.items():
        with pytest.raises(LabelError, match=f"^test: video 1, a.mp4, has {words}"):
            language.moments([told((1, 3, "a")), told(wrong)], name="test")
    with pytest.raises(LabelError, match=r"^test: video 0, a.mp4, has no 'events'"):
        language.moments([told()], name="test")


def test_a_video_is_cut_as_a_whole_at_its_events_and_in_windows(tmp_path):
    times = [np.empty((0, 2)), np.array([[0.5, 1.5], [2.0, 4.0]]), np.array([[0.0, 2.0]])]
    reading = dict(frames=4, size=8, batch=3, max_skipped_fraction=0.5, out=tmp_path, name="long")
    found, rows = language.parts(
        {"frames": shown}, Videos(None, 4 * FPS, 2 * FPS), times, length=2.0, **reading
    )
    assert rows.tolist() == [1, 2]
    whole, windows, segments = found["frames"]
    assert whole.tolist() == [[4, 12, 20, 28], [2, 6, 10, 14]]
    assert segments[0].tolist() == [[5, 7, 9, 11], [18, 22, 26, 30]]
    assert segments[1].tolist() == [[2, 6, 10, 14]]
    mean = np.array([10.0, 14, 18, 22])  # of 2 6 10 14 and 18 22 26 30
    assert windows[0] == pytest.approx(mean / np.linalg.norm(mean))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    text.train(["one two three four five six seven eight"] * 20, path, size=60)
    return partial(text.Tokenizer, path)


def test_truncated_paragraphs_and_surviving_sentences_are_counted(vocabulary):
    long = vocabulary(1000)
    said = ["One two.", "Three four five.", "Six seven."]
    ends = [long([" ".join(said[: k + 1])])[1].sum() - 1 for k in range(3)]
    for length, kept, cut in (
        (ends[0] - 1, 0, True),
        (ends[0], 1, True),
        (ends[1] - 1, 1, True),
        (ends[1], 2, True),
        (ends[2], 3, True),  # the full stop is lost
        (ends[2] + 1, 3, False),
    ):
        found = language.truncation([said, said[:1]], long, int(length))
        assert (found[0][0], found[1][0]) == (cut, kept), length
        # What the tower reads of them is what it reads of the paragraph.
        ids, keep = vocabulary(int(length))([" ".join(said)])
        assert keep.sum() == min(length, ends[2] + 1)
        assert (ids[0] == long([" ".join(said)])[0][0, :length]).all()


def test_segments_choose_among_the_sentences_of_their_video():
    counts = 10 * [1, 3, 4, 2]
    sentences, clips = ([unit(n, 6) for n in counts] for _ in range(2))
    one = answer("segments", sentences, language.ragged(clips), range(40))
    video = np.repeat(np.arange(40), counts)
    similarity = np.concatenate(clips) @ np.concatenate(sentences).T
    within = ranking.within_video(similarity, video)
    right = ranking.choice(within, np.arange(100))
    assert one.scores()[0] == right.mean() != ranking.choice(within.T, np.arange(100)).mean()
    assert one.chance() == ranking.choice_chance(within) == pytest.approx(0.4)
    alike = unit(4, 3, 6)
    assert answer("segments", [*alike], language.ragged([*alike]), range(4)).scores()[0] == 1
    # Drawn are videos, with all of their segments.
    only = one.drawn(np.array([0]), np.array([0, 0]))
    assert only.scores()[0] == 1 and only.chance() == 1
    row = tasks.row("segment_top1", one)
    assert row["low"] <= row["value"] <= row["high"] and row["low"] < row["high"]


# --- choices and actions -------------------------------------------------------------------------


def test_the_option_most_like_the_clip_is_chosen():
    clips, texts, right = unit(40, 6), unit(40, 5, 6), RNG.integers(5, size=40)
    texts[np.arange(30), right[:30]] = clips[:30]
    texts[30:] = texts[30:, :1]  # all alike: ties count against the model
    one = answer("choice", texts, clips, right)
    assert one.scores()[0].tolist() == [1] * 30 + [0] * 10 and one.chance() == 0.2
    with pytest.raises(ValueError, match="the answer of query 0 is number 5, which is none"):
        answer("choice", texts, clips, [5] * 40).scores()


def test_action_texts_find_the_clips_that_show_them():
    texts, targets = np.eye(4), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    clips = texts[targets] + 0.01 * unit(8, 4)
    assert values(answer("actions", texts, clips, targets)) == [1, 1, 1]  # nobody shows action 3
    wrong = answer("actions", texts, clips, np.array([1, 1, 1, 0, 0, 2, 2, 2]))
    assert wrong.scores("r1")[0] == pytest.approx(1 / 3) and wrong.scores("map")[0] < 0.6
    found = np.mean(
        [answer("actions", unit(4, 6), unit(8, 6), targets).scores("map")[0] for _ in range(3000)]
    )
    assert found == pytest.approx(wrong.chance("map"), abs=0.01)
    assert wrong.chance("r1") == pytest.approx((3 + 2 + 3) / 8 / 3)


def test_choices_differ_in_the_motion_alone_and_texts_do_not_tell_the_answer():
    classes, guessed, place = scenes.MOTION_CLASSES, [], []
    for index in range(60 * len(classes)):
        one = choices.choice("motion/test", index)
        scene = corpora.scene("motion/test", index)
        thing = scene.objects[scene.target]
        true = captions.prompts("motion", thing.motion)[0].removeprefix("a red star ")
        assert one.phrases[one.answer] == true and len(set(one.phrases)) == choices.OPTIONS
        assert one.question == "what does the star do?"
        assert len(set(one.statements)) == choices.OPTIONS
        for said in one.statements:
            assert "red star" in said and "camera" not in said
            assert not any(f" {other.shape} " in said for other in scene.objects[:-1])
        starts = {said.split(" star ")[0] for said in one.statements}
        assert len(starts) == 1  # the same place, words and order
        guessed.append("moves left" in one.phrases and true == "moves left")
        place.append(one.answer)
    assert choices.choice("motion/test", 3) == choices.choice("motion/test", 3)
    # Whoever always says the same motion, or the same number, is right as often as chance.
    asked = ["moves left" in choices.choice("motion/test", i).phrases for i in range(len(place))]
    assert np.mean(guessed) / np.mean(asked) == pytest.approx(0.2, abs=0.05)
    assert np.bincount(place) / len(place) == pytest.approx(0.2, abs=0.06)
    with pytest.raises(ValueError, match="no choices are made for 'boxes/test': take a part of"):
        choices.choice("boxes/test", 0)


def test_of_a_single_frame_the_middle_one_is_embedded():
    model = toy.video_text()
    clips = RNG.integers(256, size=(2, 3, 12, 12, 3), dtype=np.uint8)
    middle = np.repeat(clips[:, 1:2], 3, axis=1)
    found = features.of_middle_frame(features.embeddings_of(model))(clips)
    assert toy.close(found, features.embeddings_of(model)(middle))
    assert not toy.close(found, features.embeddings_of(model)(clips))


def test_prompts_of_human_actions_are_those_of_clip():
    assert len(set(language.CLIP_PROMPTS)) == 28
    assert language.CLIP_PROMPTS[0].format("juggling") == "a video of juggling."
    assert "a photo of a person practicing {}." in language.CLIP_PROMPTS

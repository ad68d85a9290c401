"""Batches are what was asked for: corpora and rates, the same on any number of machines."""

import itertools
import json
from functools import partial

import numpy as np
import pytest
import toy

from vplib.data import pipeline, text

SIZES = dict(frames=3, size=12, resolution=16, batch=4, seed=0)
CORPORA = {"first": 0, "second": 1, "images": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    return {
        name: toy.write(toy.Marked(name, number, frames=1 if name == "images" else 6), root / name)
        for name, number in CORPORA.items()
    }


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "pieces.model"
    text.train(toy.CAPTIONS, path, size=60)
    return text.Tokenizer(path, 12)


def stream(folders, weights=None, **changes):
    """An iterator over the two video corpora, or those with a weight."""
    weights = weights or {"first": 1.0, "second": 1.0}
    return pipeline.stream(
        {name: folders[name] for name in weights},
        weights,
        **{"mixing": "alternating", **SIZES, **changes},
    )


def draw(iterator, count):
    return list(itertools.islice(iterator, count))


def same(ones, others):
    """Whether two lists of batches are equal, byte for byte."""
    return len(ones) == len(others) and all(
        one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
        for one, other in zip(ones, others, strict=True)
    )


# --- mixing --------------------------------------------------------------------------------------


def test_alternating_batches_come_from_one_corpus_each_at_the_configured_rates(folders):
    batches = draw(stream(folders, {"first": 3.0, "second": 1.0}), 40)
    corpora = [{corpus for corpus, _ in toy.marks(batch["video"])} for batch in batches]
    assert all(len(found) == 1 for found in corpora)
    assert corpora.count({0}) == 30 and corpora.count({1}) == 10
    assert corpora[:20].count({0}) == 15  # evenly all along, not one corpus after the other


def test_plain_batches_mix_corpora_at_the_configured_rates(folders):
    batches = draw(stream(folders, {"first": 3.0, "second": 1.0}, mixing="plain"), 20)
    corpora = [corpus for batch in batches for corpus, _ in toy.marks(batch["video"])]
    assert corpora.count(0) == 60 and corpora.count(1) == 20
    assert any(len({corpus for corpus, _ in toy.marks(batch["video"])}) == 2 for batch in batches)


def test_corpora_of_weight_zero_are_left_out(folders):
    assert {
        corpus
        for batch in draw(stream(folders, {"first": 0.0, "second": 1.0}), 4)
        for corpus, _ in toy.marks(batch["video"])
    } == {1}


def test_every_epoch_shows_every_clip_once_in_a_new_order(folders):
    epochs = [
        toy.marks(batch["video"]) for batch in draw(stream(folders, {"first": 1.0}, batch=8), 3)
    ]
    assert all(sorted(epoch) == [(0, clip) for clip in range(8)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = toy.marks(next(stream(folders, {"first": 1.0}, batch=8, seed=1))["video"])
    assert other != epochs[0]


def test_clips_keep_their_captions(folders, tokenizer):
    batch = next(stream(folders, tokenizer=tokenizer))
    ids, keep = tokenizer([toy.CAPTIONS[clip] for _, clip in toy.marks(batch["video"])])
    assert np.array_equal(batch["ids"], ids) and np.array_equal(batch["keep"], keep)


def test_images_stay_one_frame_unless_they_are_mixed_with_videos(folders):
    weights = {"first": 1.0, "images": 1.0}
    for batch in draw(stream(folders, weights), 4):
        (corpus,) = {corpus for corpus, _ in toy.marks(batch["video"])}
        assert batch["video"].shape == (4, 1 if corpus == 2 else 3, 12, 12, 3)
    mixed = np.concatenate(
        [batch["video"] for batch in draw(stream(folders, weights, mixing="plain"), 4)]
    )
    images = mixed[[corpus == 2 for corpus, _ in toy.marks(mixed)]]
    assert images.shape == (8, 3, 12, 12, 3) and (images == images[:, :1]).all()


def test_a_single_picture_among_videos_is_repeated(tmp_path):
    class WithPicture(toy.Marked):
        def __getitem__(self, index):
            one = toy.Marked(self.name, self.number, frames=1)
            return one[index] if index == 2 else super().__getitem__(index)

    folder = toy.write(WithPicture("mixed", 0), tmp_path / "mixed")
    videos = next(stream({"mixed": folder}, {"mixed": 1.0}, batch=8))["video"]
    assert videos.shape == (8, 3, 12, 12, 3)
    still = [bool((clip == clip[:1]).all()) for clip in videos]
    assert still == [mark == (0, 2) for mark in toy.marks(videos)] and any(still)


def test_batches_of_images_may_be_larger(folders):
    batches = draw(stream(folders, {"first": 1.0, "images": 1.0}, image_batch=8), 4)
    assert sorted(batch["video"].shape[:2] for batch in batches) == [(4, 3), (4, 3), (8, 1), (8, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_batch": 5, "count": 2},
            r"^a global batch of 5 does not divide over 2 processes: choose a multiple$",
        ),
        ({"mixing": "sorted"}, r"^data\.mixing=sorted is not known: choose alternating or plain$"),
        (
            {"count": 3},
            r"^a global batch of 4 does not divide over 3 processes: choose a multiple$",
        ),
    ],
)
def test_impossible_batches_are_one_sentence(folders, changes, message):
    with pytest.raises(ValueError, match=message):
        stream(folders, **changes)


# --- the same batches everywhere -----------------------------------------------------------------


@pytest.mark.parametrize("mixing", ["alternating", "plain"])
def test_two_processes_share_the_batches_of_one(folders, mixing):
    whole = draw(stream(folders, mixing=mixing), 6)
    halves = [draw(stream(folders, mixing=mixing, index=index, count=2), 6) for index in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert [len(part["video"]) for part in parts] == [2, 2]
        shared = [clip.tobytes() for part in parts for clip in part["video"]]
        assert sorted(shared) == sorted(clip.tobytes() for clip in batch["video"])


def test_a_saved_state_continues_where_it_was_taken(folders, tokenizer):
    iterator = stream(folders, tokenizer=tokenizer)
    draw(iterator, 3)
    state = json.loads(json.dumps(iterator.get_state()))
    following = draw(iterator, 5)
    fresh = stream(folders, tokenizer=tokenizer)
    assert not same(draw(fresh, 5), following)
    fresh.set_state(state)
    assert same(draw(fresh, 5), following)


def test_threads_workers_and_memory_do_not_change_batches(folders, tokenizer):
    known = draw(stream(folders, tokenizer=tokenizer), 5)
    for changes in ({"threads": 6}, {"memory": 0}):
        assert same(draw(stream(folders, tokenizer=tokenizer, **changes), 5), known), changes
    iterator = stream(folders, tokenizer=tokenizer, workers=2)
    assert same(draw(iterator, 3), known[:3])
    state = json.loads(json.dumps(iterator.get_state()))
    fresh = stream(folders, tokenizer=tokenizer, workers=2)
    fresh.set_state(state)
    assert same(draw(fresh, 2), known[3:])


def test_decoded_clips_are_kept_up_to_the_given_memory(folders):
    clip = 6 * 16 * 16 * 3
    source = pipeline.ClipSource(folders["first"], resolution=16, tokenizer=None, memory=3 * clip)
    first = [source[index]["frames"] for index in range(8)]
    again = [source[index]["frames"] for index in range(8)]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True] * 3 + [False] * 5
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_long_clips_give_the_same_batches_from_the_picked_frames_alone(folders, monkeypatch):
    known = draw(stream(folders), 5)
    monkeypatch.setattr(pipeline.video, "decode", partial(pipeline.video.decode, max_bytes=1))
    source = pipeline.ClipSource(folders["first"], resolution=16, tokenizer=None, memory=10**6)
    assert isinstance(source[0]["frames"], pipeline.video.LazyFrames) and source[0] is source[0]
    assert same(draw(stream(folders), 5), known)


# --- frames and crops ----------------------------------------------------------------------------


def item(frames: int, height: int = 6, width: int = 8) -> dict:
    """A clip whose pixels hold (frame, row, column)."""
    grid = np.stack(np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij"), -1)
    return {"frames": grid.astype(np.uint8), "times": np.arange(frames) / 8, "end": frames / 8}


def test_crops_are_the_same_square_in_every_frame_anywhere_in_the_picture():
    frames, corners = item(4)["frames"], set()
    for seed in range(60):
        cropped = pipeline.crop(frames, 5, np.random.default_rng(seed))
        assert cropped.shape == (4, 5, 5, 3)
        top, left = cropped[0, 0, 0, 1:]
        assert (cropped == frames[:, top : top + 5, left : left + 5]).all()
        corners.add((int(top), int(left)))
    assert corners == {(top, left) for top in range(2) for left in range(4)}
    assert pipeline.crop(frames, 4)[0, 0, 0].tolist() == [0, 1, 2]  # the middle


def test_small_videos_are_continued_at_their_border():
    cropped = pipeline.crop(item(2, 4, 4)["frames"], 7)
    assert cropped.shape == (2, 7, 7, 3)
    assert cropped[1, 3].tolist() == [[1, 1, column] for column in (0, 0, 0, 1, 2, 3, 3)]


def test_frames_are_taken_in_order_one_from_each_stretch_of_the_clip():
    sample, taken = pipeline.Sample(4, 6), set()
    for seed in range(30):
        frames = sample.random_map(item(12), np.random.default_rng(seed))["video"][:, 0, 0, 0]
        assert (frames // 3 == np.arange(4)).all()
        taken |= set(frames.tolist())
    assert taken == set(range(12))


def test_short_clips_repeat_frames_in_order_and_are_never_flipped():
    clip = pipeline.Sample(5, 6).random_map(item(2), np.random.default_rng(0))["video"]
    assert clip[:, 0, 0, 0].tolist() == sorted(clip[:, 0, 0, 0]) and set(
        clip[:, 0, 0, 0].tolist()
    ) == {0, 1}
    for seed in range(20):
        clip = pipeline.Sample(3, 6).random_map(item(12), np.random.default_rng(seed))["video"]
        assert (np.diff(clip[:, :, :, 1].astype(int), axis=1) == 1).all()
        assert (np.diff(clip[:, :, :, 2].astype(int), axis=2) == 1).all()


# --- text ----------------------------------------------------------------------------------------


def test_texts_are_canonical_padded_and_cut(tokenizer):
    assert text.canonical("  Two GREEN -- stars!\n") == "two green stars."
    ids, keep = tokenizer(["Two green... STARS", "two green stars", " ".join(toy.CAPTIONS)])
    assert ids.shape == (3, 12) and ids.dtype == np.int32
    assert (ids[0] == ids[1]).all() and not keep[0].all() and keep[2].all()
    assert (ids[~keep] == 0).all() and (ids[keep] != 0).all()
    assert ids.max() < tokenizer.size


def test_vocabularies_are_bytes_of_their_texts(tmp_path):
    for name in ("one", "two"):
        text.train(iter(toy.CAPTIONS), tmp_path / name, size=60)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_texts_without_words_and_missing_vocabularies_are_one_sentence(tmp_path):
    with pytest.raises(
        ValueError, match=r"^no caption has any words: .*; check the text fields of the corpus$"
    ):
        text.train(["", "..."], tmp_path / "none", size=60)
    assert not any(tmp_path.iterdir())
    with pytest.raises(
        FileNotFoundError,
        match=r"^no SentencePiece model at .*none: run 10_prepare_corpus, or give",
    ):
        text.Tokenizer(tmp_path / "none", 12)
    (tmp_path / "words").write_text("not a model")
    with pytest.raises(ValueError, match=r"words is no SentencePiece model: give the path of one"):
        text.Tokenizer(tmp_path / "words", 12)


def test_transcripts_of_any_length_are_learnt_from(tmp_path):
    words = "the quick brown fox jumps over it "
    for name, long in (("words", words * 400), ("no_spaces", "猫犬鳥魚" * 2000)):
        text.train([long], tmp_path / name, size=60)
        assert text.Tokenizer(tmp_path / name, 12).unknown([long]) == 0
    # What fits a line is one line, as it always was.
    assert text._lines(["x " * 2095]) == [text.canonical("x " * 2095)]
    cut = text._lines([words * 400])
    assert " ".join(cut) == text.canonical(words * 400)
    assert max(len(line.encode()) for line in cut) <= text.LONGEST


def test_a_vocabulary_too_small_for_its_characters_says_what_would_do(tmp_path):
    texts = [chr(0x4E00 + index) * 3 for index in range(100)]
    with pytest.raises(ValueError, match=r"^data\.vocabulary=60 is too small .*more$") as caught:
        text.train(texts, tmp_path / "none", size=60)
    least = int(str(caught.value).split("data.vocabulary=")[2].split()[0])
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"data.vocabulary={least} or more"):
        text.check(texts, size=least - 1)
    text.check(texts, size=least)
    text.train(texts, tmp_path / "enough", size=least)
    assert text.Tokenizer(tmp_path / "enough", 12).size == least
    with pytest.raises(ValueError, match=r"^no vocabulary can be trained on these captions"):
        text.check(["\u2585"], size=60)  # a character that SentencePiece keeps for itself


def test_texts_of_which_the_vocabulary_knows_nothing_are_counted(tokenizer):
    assert tokenizer.unknown(["你好", "?", "a 猫", "two stars"]) == 2


# --- the released tokeniser ----------------------------------------------------------------------


def test_the_released_tokeniser_is_fetched_once_and_checked(tmp_path, monkeypatch):
    text.train(toy.CAPTIONS, tmp_path / "toy.model", size=60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(text, "RELEASED", (tmp_path / "toy.model").as_uri())
    with pytest.raises(
        ValueError,
        match=r"c4_en\.model is not the vocabulary c4_en: it has \d+ pieces instead of 32,000; give",
    ):
        text.released_tokenizer()
    monkeypatch.setattr(text, "RELEASED_SIZE", text.Tokenizer(tmp_path / "toy.model", 1).size)
    (tmp_path / "toy.model").rename(tmp_path / "given.model")
    for tokenizer in (text.released_tokenizer(), text.released_tokenizer(tmp_path / "given.model")):
        ids, keep = tokenizer(["A red -- SQUARE", "word " * 99])
        assert ids.shape == (2, 64) and not ids[~keep].any() and keep[1].all()


def test_a_tokeniser_that_cannot_be_had_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(text, "RELEASED", (tmp_path / "none").as_uri())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ValueError,
        match=r"^the tokeniser c4_en is not at .*c4_en\.model and cannot be fetched \(HF_HUB_OFFLINE "
        r"forbids it\): give the path of the file file:",
    ):
        text.released_tokenizer()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(
        ValueError,
        match=r"^the tokeniser c4_en .* cannot be fetched \(.*No such file.*\): give the path",
    ):
        text.released_tokenizer()
    assert not list(tmp_path.iterdir())
    (tmp_path / "words").write_text("not a model")
    for name in ("words", "none"):
        with pytest.raises(
            ValueError, match=rf"{name} is no SentencePiece model: give the path of the file "
        ):
            text.released_tokenizer(tmp_path / name)

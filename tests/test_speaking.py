"""A frozen encoder and a frozen language model with a trained bridge: what it learns, what it says."""

import hashlib
import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import toy
from flax import nnx

from vplib import caption, config, paths, shipped
from vplib.data import cached, spoken, text
from vplib.evaluate import answers, captioning, features, speech, talk, tasks
from vplib.method import speaking
from vplib.model import checkpoints, decoders, resampler
from vplib.model.checkpoints import CheckpointError
from vplib.model.resampler import Resampler
from vplib.train import loop
from vplib.world import corpora, families

COLOURS = ("red", "green", "blue")
ASK = "question: what colour is it? answer:"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.model"
    text.train_words([f"{ASK} {one}" for one in COLOURS] + ["caption: a thing"], path, size=100)
    return text.Words(path, 32)


def decoder(words, **changes) -> decoders.Decoder:
    sizes = dict(width=16, layers=1, heads=2, mlp=32, vocabulary=words.size, context=80)
    return decoders.Decoder(decoders.LanguageSizes(**sizes | changes), rngs=nnx.Rngs(0))


def bridge_of(queries=2, **more) -> Resampler:
    return Resampler(queries, 16, 16, 2, **more, rngs=nnx.Rngs(1))


def clips(count: int, seed: int = 0):
    """Tokens, one of which points in the direction of a colour, and the colour."""
    rng = np.random.default_rng(seed)
    tokens, colour = rng.normal(size=(count, 6, 16)), rng.integers(3, size=count)
    tokens[np.arange(count), rng.integers(6, size=count)] += 8 * np.eye(16)[colour]
    return tokens.astype(np.float16), [COLOURS[k] for k in colour]


# --- texts ---------------------------------------------------------------------------------------


def test_words_are_pieces_and_come_back(words):
    (ids,) = words.pieces(["What colour is it?"])
    assert len(ids) == 4 and words.words(np.array([[*ids, 0, 5, 0]])) == ["what colour is it"]
    assert words.words(np.zeros((1, 3), int)) == [""]
    assert words.unknown_words("What shape is it, Sir?") == ["shape", "sir"]
    with pytest.raises(ValueError, match="no text has any words"):
        text.train_words(["...", ""], paths.OUT / "none.model", size=10)


def test_what_follows_a_prompt_is_marked_and_ends(words):
    of = spoken.texts(words, [[(ASK, "red")], [("caption:", "a thing")]], length=12)
    for row, (prompt, said) in enumerate(((6, 2), (1, 3))):
        assert of.keep[row].sum() == prompt + said == of.keep[row].nonzero()[0].max() + 1
        assert of.said[row].nonzero()[0].tolist() == [*range(prompt, prompt + said)]
        assert of.ids[row, prompt + said - 1] == words.end
    assert words.words(of.ids) == ["question what colour is it answer red", "caption a thing"]
    with pytest.raises(ValueError, match="which has no words: give it some"):
        spoken.texts(words, [[(ASK, " .. ")]], length=12)
    with pytest.raises(
        ValueError, match="has 8 words with its prompt and its end, and there is room for 7"
    ):
        spoken.texts(words, [[(ASK, "red")]], length=7)


def test_items_are_texts_beside_the_tokens_of_their_clip(words):
    tokens, _ = clips(3)
    of = spoken.texts(words, [[(ASK, "red")], [(ASK, "blue")]], length=10)
    corpus = spoken.Spoken(of, tokens, np.array([2, 0]))
    assert len(corpus) == 2 and (corpus[0]["tokens"] == tokens[2]).all()
    assert set(corpus[1]) == {"tokens", "ids", "keep", "said"}
    stream = cached.stream({"x": corpus}, {"x": 1.0}, steps=3, batch=2, mixing="plain", seed=0)
    batch = next(stream)
    assert batch["tokens"].shape == (2, 6, 16) and batch["said"].sum() == 4


def test_texts_of_one_length_are_together_without_padding_and_none_is_lost(words):
    turns = [[(ASK, "red")], [("caption:", "a thing")], [(ASK, "blue"), (ASK, "red")]]
    of = spoken.texts(words, turns, length=20)
    found = spoken.by_length(of, step=6)
    assert [(rows.tolist(), part.ids.shape[1]) for rows, part in found] == [
        ([1], 6),
        ([0], 12),
        ([2], 18),
    ]
    for rows, part in found:
        assert part.keep.sum() == of.keep[rows].sum() and part.said.sum() == of.said[rows].sum()
        assert (part.ids[part.keep] == of.ids[rows][of.keep[rows]]).all()
    ((rows, part),) = spoken.by_length(of, step=64)
    assert rows.tolist() == [0, 1, 2] and part.ids.shape == of.ids.shape


def test_a_lesson_keeps_its_share_however_its_texts_are_cut_by_length(words):
    about = [
        (7, [(ASK, "red")]),
        (3, [("caption:", "a thing")]),
        (7, [(ASK, "blue"), (ASK, "red")]),
    ]
    found = spoken.lessons(words, "talk", "clips", about, share=0.6, length=20, step=6)
    assert [*found] == ["talk to 6", "talk to 12", "talk to 18"]
    assert [one.rows.tolist() for one in found.values()] == [[3], [7], [7]]
    assert all(one.corpus == "clips" for one in found.values())
    assert np.allclose([one.share for one in found.values()], 0.2)
    (whole,) = spoken.lessons(words, "talk", "clips", about, share=0.6, length=20, step=64).values()
    assert whole.rows.tolist() == [7, 3, 7] and whole.share == 0.6


def test_documents_tell_of_a_clip_before_they_ask_about_it():
    clips = [["a red ring."], ["a blue star.", "one blue star."]] * 20
    asked = [
        (row, f"question: {word}? answer:", answer)
        for row in range(40)
        for word, answer in (
            ("colour", ("red", "blue")[row % 2]),
            ("shape", ("ring", "star")[row % 2]),
        )
    ]
    found = spoken.documents(["a thing"], clips, asked, seed=0)
    assert found == spoken.documents(["a thing"], clips, asked, seed=0)
    spoken_of = [(told, turns) for told, turns in found if turns[0][0] == spoken.CAPTION]
    assert len(found) == 81 and spoken_of.count(("", [("caption:", "a thing")])) == 1
    pairs = {(told, said) for told, ((_, said),) in spoken_of}
    blue = clips[1]
    assert pairs == {("", "a thing"), ("", "a red ring."), (blue[0], blue[1]), (blue[1], blue[0])}
    begins, others = set(), 0
    for told, turns in [one for one in found if one[1][0][0] != spoken.CAPTION]:
        begins.add(told)
        answers_of = {answer for _, answer in turns[-2:]}
        assert answers_of == ({"red", "ring"} if "red" in told else {"blue", "star"})
        others += len(turns) - 2
    assert begins == {"a red ring.", *blue} and 20 < others < 60
    # A clip that nobody described is asked about all the same.
    alone = spoken.documents([], [[]], [(0, "question: what? answer:", "red")], seed=0)
    assert [(told, {prompt[:9] for prompt, _ in turns}) for told, turns in alone] == [
        ("", {"question:"})
    ]


def test_bags_hold_each_word_once_in_order_and_not_all_have_as_many(words):
    descriptions = ["it is a red thing", "", "blue"] + ["what colour is it a red thing"] * 200
    told = spoken.bags(words, descriptions, count=4, seed=0)
    assert all(
        (a == b).all()
        for a, b in zip(told, spoken.bags(words, descriptions, count=4, seed=0), strict=True)
    )
    for row, pieces in enumerate(words.pieces(descriptions)):
        bag = told.bag[row]
        assert told.ids[row, : len(pieces)].tolist() == pieces and (bag >= 0).sum() == len(pieces)
        assert (np.diff(bag[: len(pieces)]) >= 0).all() and (bag[len(pieces) :] == -1).all()
        assert {*bag[bag >= 0].tolist()} == {*range(bag.max() + 1)}
    assert {*(told.bag[3:].max(1) + 1).tolist()} == {2, 3, 4}  # bags of seven words
    assert len({tuple(row) for row in told.bag[3:]}) > 20  # cut at random
    item = spoken.Read(spoken.texts(words, [[(ASK, "red")]], length=9), told, 4)[0]
    assert item["bags"].shape == (told.ids.shape[1], 4) and item["bags"].sum() == 5
    assert (item["bags"].argmax(1)[:5] == told.bag[0, :5]).all()


def test_what_is_told_stands_as_sums_of_words_where_a_clip_will(words):
    lm = decoder(words)
    of = spoken.texts(words, [[(ASK, "red")], [(ASK, "blue")]], length=10)
    told = spoken.bags(words, ["it is a red thing", ""], count=2, seed=0)
    read = spoken.Read(of, told, 2)
    batch = {key: np.stack([read[k][key] for k in (0, 1)]) for key in read[0]}
    loss = jax.jit(lambda batch: speaking.reading_loss(lm, batch)[0])
    known = float(loss(batch))
    seen = np.zeros((2, 2, 16), np.float32)
    for place, number in zip(told.ids[0], told.bag[0], strict=True):
        seen[0, number] += np.asarray(lm.embed(jnp.asarray(place)[None, None]))[0, 0]
    there = np.array([[True, True], [False, False]])
    each, _ = decoders.log_probabilities(
        lm, jnp.asarray(seen), jnp.asarray(there), jnp.asarray(of.ids), jnp.asarray(of.keep)
    )
    assert known == pytest.approx(-float((each * of.said).sum()) / of.said.sum(), rel=1e-5)
    other = batch | {"bags": batch["bags"][:, :, ::-1]}  # of which word is where it depends
    assert float(loss(other)) != pytest.approx(known, abs=1e-5)


def test_talks_hold_each_question_once_a_few_about_one_clip_each():
    asked = [(row, f"question {row} {n}", str(n)) for row in (3, 1) for n in range(9)]
    found = spoken.talks(asked + [(7, "why", "so")], seed=0)
    assert [row for row, _ in found] == [3, 3, 3, 1, 1, 1, 7]
    assert all(1 <= len(turns) <= spoken.TURNS for _, turns in found)
    flat = [(row, *turn) for row, turns in found for turn in turns]
    assert sorted(flat) == sorted(asked + [(7, "why", "so")]) and flat[:9] != asked[:9]
    orders = [[said for row, turns in found if row == one for _, said in turns] for one in (3, 1)]
    assert orders[0] != orders[1]


def test_of_several_turns_what_is_said_in_each_is_marked(words):
    turns = [("it is red " + ASK, "red"), (ASK, "blue")]
    of = spoken.texts(words, [turns], length=24)
    assert of.said[0].nonzero()[0].tolist() == [9, 16, 17] and of.keep[0].sum() == 18
    assert words.words(of.ids[:, 9:10]) == ["red"] and words.words(of.ids[:, 16:18]) == ["blue"]


def test_questions_are_a_table_and_each_needs_words():
    metas = [
        {"file_name": "a.mp4", "qa": [{"question": "who?", "answer": "a ring", "kind": "who"}]},
        {},
    ]
    (one,) = speech.questions(metas).to_dict("records")
    assert one == {"row": 0, "question": "who?", "answer": "a ring", "kind": "who"}
    assert speech.questions([{}]).empty
    metas[0]["qa"][0]["answer"] = " "
    with pytest.raises(ValueError, match="a.mp4 has a question without answer: give one"):
        speech.questions(metas)


def test_what_is_said_ends_before_the_next_question():
    assert answers.first("moves left question what colour is") == "moves left"
    assert answers.first("questions") == "questions" and answers.first("question what") == ""


def test_questions_about_one_clip_are_one_draw():
    right = np.array([1.0, 1.0, 0.0, 1.0])
    of = speech.by_clip(
        tasks.Answers(speech.ANSWERING, right[None], np.array([0.5, 0.5, 0.5, 0.1])),
        np.array([4, 4, 4, 9]),
    )
    assert of.scores() == pytest.approx(np.array([[2 / 3, 1.0]])) and of.chance() == pytest.approx(
        0.3
    )


def test_answers_are_scored_by_kind_and_together_by_clip():
    asked = pd.DataFrame(
        [(0, "count", "two", 0.5), (1, "motion", "moves left", 0.1), (0, "motion", "shakes", 0.1)],
        columns=["row", "kind", "answer", "chance"],
    )
    found = speech.by_kind(["Two!", "moves right", "shakes"], asked)
    assert {kind: one.scores().tolist() for kind, one in found.items()} == {
        "count": [[1.0]],
        "motion": [[0.0, 1.0]],
        "all": [[1.0, 0.0]],
    }
    assert found["motion"].chance() == pytest.approx(0.1)
    assert found["all"].chance() == pytest.approx(0.2)


def test_rows_are_of_every_encoder_and_of_what_ours_has_more():
    told = {
        "stage2": tasks.Answers(
            speech.ANSWERING, np.array([[1.0, 1.0, 0.0, 1.0]]), np.full(4, 0.5)
        ),
        "text_only": tasks.Answers(
            speech.ANSWERING, np.array([[0.0, 1.0, 0.0, 1.0]]), np.full(4, 0.5)
        ),
    }
    rows = {row["name"]: row for row in speech.headline("qa_bound", told, metric="top1")}
    assert [*rows] == [
        "qa_bound_stage2_top1",
        "qa_bound_text_only_top1",
        "qa_bound_stage2_minus_text_only",
    ]
    assert rows["qa_bound_stage2_top1"]["value"] == 0.75
    gap = rows["qa_bound_stage2_minus_text_only"]
    assert (gap["value"], gap["unit"]) == (25.0, "points")
    cider = {
        name: tasks.Answers(speech.CAPTIONING, one.outputs, one.targets)
        for name, one in told.items()
    }
    gap = speech.headline("captioning_cider", cider)[-1]
    assert (gap["name"], gap["value"], gap["unit"]) == (
        "captioning_cider_stage2_minus_text_only",
        0.25,
        "CIDEr-D",
    )


# --- losses --------------------------------------------------------------------------------------


def test_the_loss_is_of_what_is_said_and_depends_on_prompt_and_clip(words):
    bridge, lm, (tokens, _) = bridge_of(), decoder(words), clips(2)
    of = spoken.texts(words, [[(ASK, "red")], [("caption:", "a thing")]], length=10)
    batch = {"tokens": tokens, **of._asdict()}
    loss = jax.jit(lambda batch: speaking.speaking_loss(bridge, batch, lm)[0])
    known = float(loss(batch))
    seen = bridge(jnp.float32(tokens))
    there = jnp.ones(seen.shape[:2], bool)
    each, _ = decoders.log_probabilities(lm, seen, there, jnp.asarray(of.ids), jnp.asarray(of.keep))
    assert known == pytest.approx(-float((each * of.said).sum()) / of.said.sum(), rel=1e-5)
    # Padding says nothing; the prompt and the clip do.
    other = of.ids.copy()
    other[~of.keep] = 3
    assert float(loss(batch | {"ids": other})) == pytest.approx(known, abs=1e-6)
    other = of.ids.copy()
    other[0, 1] = 3
    assert float(loss(batch | {"ids": other})) != pytest.approx(known, abs=1e-4)
    assert float(loss(batch | {"tokens": tokens[::-1]})) != pytest.approx(known, abs=1e-4)


def test_the_bridge_alone_learns_and_answers_what_the_clips_show(words, tmp_path):
    """By `fit`, to the end; a language model that has read that an answer is a colour."""
    read = spoken.texts(words, [[(ASK, one)] for one in COLOURS], length=8)
    lm = loop.fit(
        decoder(words),
        speaking.reading_loss,
        cached.stream(
            {"x": spoken.Read(read, spoken.bags(words, [""] * 3, count=1, seed=0), 1)},
            {"x": 1.0},
            steps=150,
            batch=3,
            mixing="plain",
            seed=0,
        ),
        steps=150,
        tx=optax.adamw(1e-2),
        seed=0,
        out=tmp_path / "lm",
    )
    before = checkpoints.digest(checkpoints.flatten(lm))
    tokens, colours = clips(384)
    fit = partial(loop.fit, steps=400, tx=optax.adamw(1e-2), seed=0, frozen=lm)
    shown, right = clips(48, seed=1), {}
    for name, scale in (("seen", 1.0), ("text only", 0.0)):
        of = spoken.Spoken(
            spoken.texts(words, [[(ASK, one)] for one in colours], length=8),
            np.float16(scale) * tokens,
            np.arange(384),
        )
        bridge = fit(
            bridge_of(),
            speaking.speaking_loss,
            cached.stream({"x": of}, {"x": 1.0}, steps=400, batch=32, mixing="plain", seed=0),
            out=tmp_path / name,
        )
        told = np.float16(scale) * shown[0], np.arange(48), [ASK] * 48
        speaker = speech.Speaker(bridge, lm, words)
        found = speech.said(speaker, *told, batch=20)
        ranks = speech.ranked(speaker, *told, COLOURS, batch=20)
        right[name] = answers.exact_match(found, shown[1]).mean()
        assert ranks.shape == (48, 3) and ranks.max() <= 0
        assert answers.closed_top1(ranks, COLOURS, shown[1]).mean() >= right[name]
    assert right["seen"] > 0.8 and right["text only"] < 0.6
    assert checkpoints.digest(checkpoints.flatten(lm)) == before
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        speech.said(speaker, tokens, np.arange(2), [ASK, ""])
    with pytest.raises(ValueError, match="longer than the language model's context of 80"):
        speech.said(speaker, tokens, np.arange(1), [" ".join(["red"] * 60)])


# --- use -----------------------------------------------------------------------------------------


@pytest.fixture
def voice(tmp_path, words):
    folder = tmp_path / "voice"
    parts = {
        "encoder": toy.encoder(),
        "lm": decoder(words),
        "resampler": bridge_of(mlp=True),
    }
    for name, part in parts.items():
        checkpoints.save(part, folder / f"{name}.npz", half=True)
    (folder / "words.model").write_bytes(words._pieces.serialized_model_proto())
    return folder


def test_what_42_leaves_speaks_of_any_video(voice, tmp_path):
    from test_video import moving_square

    from vplib.data import video

    (tmp_path / "clip.mp4").write_bytes(video.encode(moving_square(), 10))
    run = partial(subprocess.run, capture_output=True, text=True, cwd=paths.ROOT)
    command = [sys.executable, "-m", "vplib.caption", "--voice", voice]
    done = run(
        [*command, tmp_path / "clip.mp4", tmp_path / "gone.mp4", "--ask", "what shape is it?"]
    )
    assert done.returncode == 1 and done.stdout.startswith(f"{tmp_path / 'clip.mp4'}: ")
    assert "does not know shape" in done.stderr and "gone.mp4" in done.stderr
    assert "Traceback" not in done.stderr
    said = caption.load(voice).say(tmp_path / "clip.mp4", answers.prompt("what shape is it?"))
    assert done.stdout.strip().endswith(f"clip.mp4: {said or '(nothing)'}")


def test_the_shipped_voice_is_what_its_manifest_says_and_speaks_of_what_it_sees(tmp_path):
    own, given = "data=world", ["data=folder", f"data.root={tmp_path}"]
    lms = [config.check("42_captioning_qa", words).speaking.lm for words in ([own], given)]
    assert lms == [paths.short(shipped.VOICE), None]  # at lesson, the main job's scale
    told = json.loads((shipped.VOICE / "manifest.json").read_text())
    assert told["files"].keys() == {*caption.FILES.values()}
    for name, entry in told["files"].items():
        data = (shipped.VOICE / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}, name
    seen = checkpoints.flatten(features.encoder_of(checkpoints.load(shipped.VOICE / "encoder.npz")))
    whole = checkpoints.load(shipped.WEIGHTS / "study-stage2.npz")
    assert checkpoints.digest(seen) == checkpoints.digest(
        checkpoints.flatten(features.encoder_of(whole))
    )
    voice, look = caption.load(shipped.VOICE), dict(resolution=56, frames=16, fps=8.0, seed=5)
    count = sum(leaf.size for leaf in checkpoints.flatten(voice.speaker.lm).values())
    page = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert f"has {count:,} parameters and {voice.speaker.words.size} words" in page
    said, references = [], []
    source = families.source("captioning/test", 12, **look)
    for k in range(len(source)):
        (tmp_path / f"{k}.mp4").write_bytes(source[k].video)
        said.append(captioning.ptb_like(voice.say(tmp_path / f"{k}.mp4", spoken.CAPTION)))
        subject = corpora.scene("captioning/test", k, seed=look["seed"])
        told = corpora.truth(subject, frames=look["frames"], fps=look["fps"])
        references.append([captioning.ptb_like(one) for one in told["captions_reference"]])
    own = captioning.cider_d(said, references).mean()
    others = captioning.cider_d(said, references[1:] + references[:1]).mean()
    assert own > 2 * others and own > 0.8


def test_a_voice_whose_parts_do_not_fit_is_one_sentence(voice, words):
    assert isinstance(resampler.load(voice / "resampler.npz"), Resampler)
    checkpoints.save(decoder(words, width=8), voice / "lm.npz")
    with pytest.raises(
        CheckpointError, match="are not of one model: .* copy all of them from one run"
    ):
        caption.load(voice)
    (voice / "lm.npz").unlink()
    with pytest.raises(CheckpointError, match="has no lm.npz: give the folder voice/"):
        caption.load(voice)
    with pytest.raises(CheckpointError, match="holds no resampler"):
        resampler.load(voice / "encoder.npz")


def test_all_true_answers_of_a_question_count_and_its_kind_if_wups_knows_it():
    qa = [{"question": "what?", "answer": "ring", "kind": "DO", "more": ["band"]}]
    qa += [{"question": "who?", "answer": "a man", "kind": "who"}]
    table = speech.questions([{"qa": qa}])
    assert talk.references(table) == ([["ring", "band"], ["a man"]], ["DO", "CW"])
    assert talk.references(speech.questions([{"qa": qa[1:]}])) == ([["a man"]], ["CW"])


def test_captions_are_several_one_or_none():
    metas = [{"text": "x", "captions_reference": ["a", "b"]}, {"text": "x"}, {}]
    assert talk.captions(metas) == [["a", "b"], ["x"], []]

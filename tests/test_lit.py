"""LiT: the encoder stays to the bit, what reads it learns, from tokens that were computed once."""

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx

from vplib import config, files
from vplib.data import cached, pipeline, text
from vplib.evaluate import tokens
from vplib.method import lit
from vplib.method.stages import stage1_loss
from vplib.model import checkpoints
from vplib.model.encoders import VideoText
from vplib.train import loop

SIZES = replace(toy.SIZES, classes=0, decoder=None)
FIRST = checkpoints.flatten(toy.video_text(1))
SECOND = checkpoints.flatten(toy.encoder(2))
VIEW = dict(frames=3, size=12, resolution=16, batch=3, mixing="alternating")


def parts(model: nnx.Module) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of a model by its parts."""
    found = {}
    for path, value in toy.leaves(model).items():
        part, _, rest = path.partition("/")
        found.setdefault(part, {})[rest] = np.asarray(value)
    return found


def equal(one: dict, other: dict) -> bool:
    """Whether two parts are the same to the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


# --- taking apart and putting together -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["params", "params/vision_encoder", "params/encoder"])
def test_the_encoder_is_that_of_stage_2_and_all_else_that_of_stage_1(kind):
    second = {k.replace("params", kind, 1): v for k, v in SECOND.items()} | (
        {} if kind == "params" else {"params/other/w": np.zeros(3)}
    )
    found = parts(lit.assemble(SIZES, FIRST, second))
    assert equal(found.pop("vision_encoder"), parts_of(SECOND, "params"))
    assert found.keys() == {"contrastive_vision_pooler", "text_encoder"}
    assert all(equal(part, parts_of(FIRST, f"params/{name}")) for name, part in found.items())


def parts_of(weights: dict, prefix: str) -> dict[str, np.ndarray]:
    return {k[len(prefix) + 1 :]: v for k, v in weights.items() if k.startswith(f"{prefix}/")}


def test_auxiliary_layers_are_tuned_with_the_pooler_behind_them():
    model = toy.video_text(aux_layers=1)
    encoder, stage = lit.lock(model)
    assert {*parts(stage.model)} == {
        "auxiliary_encoder",
        "contrastive_vision_pooler",
        "text_encoder",
    }
    assert equal_models(lit.join(encoder, stage), model)


def equal_models(one: nnx.Module, other: nnx.Module) -> bool:
    return equal(toy.leaves(one), toy.leaves(other))


def test_the_model_that_is_taken_apart_stays_whole():
    model = lit.assemble(SIZES, FIRST, SECOND)
    _, stage = lit.lock(model)
    stage.model.text_encoder.cls_emb[...] += 1
    assert equal_models(model, lit.assemble(SIZES, FIRST, SECOND))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, dict(width=32), "the encoder to be locked is of another size"),
        ({}, dict(spatial_layers=2), "the encoder to be locked is of another size"),
        (dict(width=32), {}, "stage 1 is of another size"),
        (dict(aux_layers=1), {}, "stage 1 is of another model: it has unknown auxiliary_encoder"),
        (dict(vocabulary=30), {}, "stage 1 knows 30 pieces of text and the vocabulary has 24"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(first, second, words):
    weights = (
        checkpoints.flatten(toy.video_text(**first)),
        checkpoints.flatten(toy.encoder(**second)),
    )
    with pytest.raises(checkpoints.CheckpointError, match=f"^{words}") as error:
        lit.assemble(SIZES, *weights)
    assert "\n" not in str(error.value)


def test_an_encoder_without_text_cannot_stand_for_stage_1():
    with pytest.raises(checkpoints.CheckpointError, match=r"^stage 1 has no text encoder: give"):
        lit.assemble(SIZES, SECOND, SECOND)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lit.last_corpus=ac9", "lit.last_corpus must be one of data.corpora (ac1, "),
        (
            "data.corpora={ac1:1}",
            "lit.last_corpus must be one of data.corpora (ac1) or null, given",
        ),
        ("lit.warmup=9 lit.steps=8", "lit.warmup must be at most lit.steps, given 9 and 8"),
        ("lit.last_share=1", "lit.last_share must be a number, 0 or more and less than 1"),
        ("lit.every=3", "optim.checkpoint_every must be a multiple of lit.every"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(words, said):
    with pytest.raises(config.ConfigError) as error:
        config.check("31_lit_tuning", words)
    assert said in str(error.value)


def test_settings_are_those_of_stage_1_unless_a_scale_says_otherwise():
    for scale in ("study", "paper"):
        given = config.check("31_lit_tuning", f"scale={scale}").lit
        stage1 = config.check("20_stage1", f"scale={scale}").stage1
        own = ("drop_ratio", "times", "frames", "continues", "half", "wrong_captions")
        own += ("masked", "captions", "spatial_frozen")
        assert {k: v for k, v in given.items() if k in stage1} == {
            k: v for k, v in stage1.items() if k not in own
        }
    assert given.last_corpus == "ac3"
    assert config.check("31_lit_tuning", "data=folder data.root=x").lit.last_corpus is None


# --- tokens --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    return {
        name: toy.write(toy.Marked(name, number, frames=1 if name == "images" else 6), root / name)
        for number, name in enumerate(("first", "second", "images"))
    }


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "pieces.model"
    text.train(toy.CAPTIONS, path, size=60)
    return text.Tokenizer(path, 8)


def cache(folders, tokenizer, out, *, memory=1e9, encoder=None, **changes):
    encoder = encoder or toy.encoder(2)
    return tokens.cache(encoder, folders, tokenizer, memory=memory, out=out, **VIEW | changes)


@pytest.mark.parametrize("name", ["first", "images"])
def test_cached_tokens_give_the_loss_of_the_clips_themselves(name, folders, tokenizer, tmp_path):
    """That of stage 1 without dropping, up to half precision; and every clip has its own text."""
    model = toy.video_text(1, vocabulary=tokenizer.size)
    corpus = cache(folders, tokenizer, tmp_path, encoder=model.vision_encoder)[name]
    shown = pipeline.Shards(folders[name])
    frames = 1 if name == "images" else 3
    videos = [
        pipeline.read_clip(clip.video, name=name, frames=frames, size=12, resolution=16)
        for clip in map(shown.__getitem__, range(8))
    ]
    ids, keep = tokenizer(toy.CAPTIONS)
    batch = {"video": jnp.asarray(videos), "ids": ids, "keep": keep}
    assert corpus.tokens.dtype == np.float16 and corpus.tokens.shape == (8, 9 * frames, 16)
    _, stage = lit.lock(model)
    drawn = {key: np.stack([corpus[i][key] for i in range(8)]) for key in ("tokens", "ids", "keep")}
    stage1 = jax.jit(stage1_loss, static_argnames="drop_ratio")
    want, _ = stage1(toy.Stage1(model), batch, drop_ratio=0.0, key=jax.random.key(0))
    found, _ = jax.jit(lit.lit_loss)(stage, drawn)
    assert float(found) == pytest.approx(float(want), rel=3e-3)


def test_tokens_beyond_the_memory_lie_in_a_file_that_leaves_nothing(folders, tokenizer, tmp_path):
    here = cache(folders, tokenizer, tmp_path)
    there = cache(folders, tokenizer, tmp_path / "new", memory=1000)
    for name in folders:
        assert not isinstance(here[name].tokens, np.memmap)
        assert isinstance(there[name].tokens, np.memmap)
        assert np.array_equal(here[name].tokens, there[name].tokens)
    assert not list((tmp_path / "new").iterdir())


def test_a_disk_without_room_for_the_tokens_is_one_sentence(
    folders, tokenizer, tmp_path, monkeypatch
):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    with pytest.raises(files.FileError, match=r"cannot be written: the disk is full; free some"):
        cache(folders, tokenizer, tmp_path, memory=0)


def test_tokens_that_are_not_finite_are_refused(folders, tokenizer, tmp_path):
    encoder = toy.encoder(2)
    encoder.temporal_ln.bias[...] += 1e6  # more than half precision holds
    with pytest.raises(checkpoints.CheckpointError, match=r"^the locked encoder .* not finite"):
        cache(folders, tokenizer, tmp_path, encoder=encoder)


def test_images_among_videos_are_repeated(folders, tokenizer, tmp_path):
    mixed = cache(folders, tokenizer, tmp_path, mixing="plain")
    assert {corpus.tokens.shape for corpus in mixed.values()} == {(8, 27, 16)}


# --- batches -------------------------------------------------------------------------------------


def numbered(*, images: bool = False, number: int = 0, clips: int = 8) -> cached.CachedCorpus:
    """A corpus whose tokens are its number and whose first piece is the clip's."""
    made = np.full((clips, 2 if images else 6, 16), number, np.float16)
    ids = np.zeros((clips, 6), np.int32)
    ids[:, 0] = np.arange(clips)
    return cached.CachedCorpus(made, ids, np.ones((clips, 6), bool), images=images)


CORPORA = {
    "a": numbered(number=1),
    "b": numbered(number=2),
    "c": numbered(number=3, images=True),
}


def stream(corpora=None, weights=None, **changes):
    given = dict(steps=40, batch=4, mixing="alternating", seed=0)
    weights = weights or {"a": 2.0, "b": 1.0, "c": 1.0}
    return cached.stream(corpora or CORPORA, weights, **given | changes)


def of(batch) -> set[int]:
    """The numbers of the corpora in a batch."""
    return {*batch["tokens"].reshape(-1).astype(int).tolist()}


def same(ones, others) -> bool:
    return all(
        np.array_equal(one[k], other[k])
        for one, other in zip(ones, others, strict=True)
        for k in ("tokens", "ids", "keep")
    )


@pytest.mark.parametrize("mixing", ["alternating", "plain"])
def test_the_last_tenth_of_the_steps_reads_its_corpus_alone(mixing):
    corpora = {"a": CORPORA["a"], "b": CORPORA["b"]}
    batches = list(
        stream(corpora, {"a": 3.0, "b": 1.0}, mixing=mixing, last_corpus="b", last_share=0.1)
    )
    assert len(batches) == 40 and all(of(batch) == {2} for batch in batches[36:])
    clips = np.concatenate([batch["tokens"][:, 0, 0] for batch in batches[:36]])
    assert (clips == 1).mean() == pytest.approx(0.75) and (clips == 2).mean() == pytest.approx(0.25)
    if mixing == "alternating":
        assert all(len(of(batch)) == 1 for batch in batches)
        assert of(batches[35]) | of(batches[34]) | of(batches[33]) | of(batches[32]) == {1, 2}
    own = np.concatenate([batch["ids"][:, 0] for batch in batches[36:]])
    assert sorted(own.tolist()) == sorted([*range(8)] * 2)


def test_a_last_corpus_may_have_no_weight_before():
    batches = list(stream(weights={"a": 1, "b": 0, "c": 1}, last_corpus="b", last_share=0.1))
    assert {*map(frozenset, map(of, batches[:36]))} == {frozenset({1}), frozenset({3})}
    assert all(of(batch) == {2} for batch in batches[36:])


def test_without_a_last_corpus_all_batches_are_mixed():
    found = [of(batch) for batch in stream()]
    assert [found.count({n}) for n in (1, 2, 3)] == [20, 10, 10]


def test_batches_of_images_may_be_larger_and_clips_keep_their_texts():
    for batch in stream(image_batch=8, last_corpus="c", last_share=0.1):
        assert batch["tokens"].shape == ((8, 2, 16) if of(batch) == {3} else (4, 6, 16))
        assert len(batch["ids"]) == len(batch["keep"]) == len(batch["tokens"])
    labelled = numbered()
    labelled.tokens[:] = np.arange(8)[:, None, None]
    for batch in stream({"a": labelled}, {"a": 1.0}, steps=4):
        assert (batch["tokens"][:, 0, 0] == batch["ids"][:, 0]).all()


def test_every_epoch_shows_every_clip_once_in_a_new_order():
    drawn = [
        batch["ids"][:, 0].tolist() for batch in stream(weights={"a": 1, "b": 0, "c": 0}, batch=8)
    ]
    assert all(sorted(epoch) == [*range(8)] for epoch in drawn) and len({*map(tuple, drawn)}) > 9
    other = next(stream(weights={"a": 1, "b": 0, "c": 0}, batch=8, seed=1))["ids"][:, 0].tolist()
    assert other != drawn[0]


@pytest.mark.parametrize("mixing", ["alternating", "plain"])
def test_two_processes_share_the_batches_of_one(mixing):
    corpora = {"a": CORPORA["a"], "b": CORPORA["b"]}
    given = dict(weights={"a": 2.0, "b": 1.0}, mixing=mixing, last_corpus="b", last_share=0.25)
    whole = list(stream(corpora, **given))
    shares = [list(stream(corpora, **given, index=index, count=2)) for index in (0, 1)]
    for one, *both in zip(whole, *shares, strict=True):
        assert sorted(clips_of(one)) == sorted(clips_of(both[0]) + clips_of(both[1]))


def clips_of(batch) -> list[tuple[int, int]]:
    """(corpus, clip) numbers of each clip of a batch."""
    return [*zip(batch["tokens"][:, 0, 0].tolist(), batch["ids"][:, 0].tolist(), strict=True)]


@pytest.mark.parametrize("at", [7, 36, 38])
def test_an_iterator_goes_on_from_its_state(at):
    given = dict(last_corpus="b", last_share=0.1)
    whole, stopped, resumed = list(stream(**given)), stream(**given), stream(**given)
    list(itertools.islice(stopped, at))
    resumed.set_state(stopped.get_state())
    assert same(list(resumed), whole[at:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_batch=5, count=2), r"^a global batch of 5 does not divide over 2 processes"),
        (dict(mixing="sorted"), r"^data\.mixing=sorted is not known: choose alternating or plain$"),
    ],
)
def test_impossible_batches_are_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        stream(**changes)


# --- training ------------------------------------------------------------------------------------


def tune(stage, corpora, out, *, steps=8, stop=None):
    batches = cached.stream(
        corpora,
        {"first": 1.0, "second": 1.0},
        steps=steps,
        batch=4,
        mixing="alternating",
        seed=0,
        last_corpus="second",
        last_share=0.25,
    )

    class Stopped(Iterator):
        drawn, get_state, set_state = 0, batches.get_state, batches.set_state

        def __next__(self):
            if self.drawn == stop:
                raise KeyboardInterrupt
            self.drawn += 1
            return next(batches)

    return loop.fit(
        stage,
        lit.lit_loss,
        Stopped() if stop else batches,
        steps=steps,
        tx=optax.adamw(1e-2),
        seed=0,
        out=out,
        every=2,
        checkpoint_every=2,
    )


@pytest.fixture(scope="module")
def trained(folders, tokenizer, tmp_path_factory):
    """The model before tuning, the tokens, the model after it, and where its run lies."""
    out = tmp_path_factory.mktemp("run")
    first = checkpoints.flatten(toy.video_text(1, vocabulary=tokenizer.size))
    model = lit.assemble(replace(SIZES, vocabulary=tokenizer.size), first, SECOND)
    encoder, stage = lit.lock(model)
    videos = {name: folders[name] for name in ("first", "second")}
    corpora = cache(videos, tokenizer, out, encoder=encoder)
    tuned = lit.join(encoder, tune(stage, corpora, out))
    checkpoints.save(tuned, out / "weights.npz")
    return model, corpora, tuned, out


def test_the_encoder_stays_to_the_bit_and_text_tower_and_pooler_change(trained):
    before, _, after, _ = trained
    before, after = parts(before), parts(after)
    assert equal(before.pop("vision_encoder"), after.pop("vision_encoder"))
    for name, part in before.items():
        still = {key for key in part if np.array_equal(part[key], after[name][key])}
        # Softmax ignores the bias of keys; the pooler never forms them.
        assert still <= {"pooling_attention/key/b"}, name


def test_no_gradient_reaches_the_encoder(trained):
    model, corpora, _, _ = trained
    _, stage = lit.lock(model)
    clips = [corpora["first"][i] for i in range(4)]
    batch = jax.tree.map(lambda *rows: jnp.stack(rows), *clips)
    graph, params = nnx.split(stage)
    loss = jax.grad(lambda params: lit.lit_loss(nnx.merge(graph, params), batch)[0])
    gradients = jax.eval_shape(loss, params)
    reached = {"/".join(map(str, path[:2])) for path, _ in nnx.to_flat_state(gradients)}
    assert reached == {"model/contrastive_vision_pooler", "model/text_encoder", "log_scale"}


def test_the_file_is_a_video_text_model_with_the_encoder_of_stage_2(trained):
    _, _, tuned, out = trained
    loaded = checkpoints.load(out / "weights.npz")
    assert isinstance(loaded, VideoText) and equal_models(loaded, tuned)
    assert equal(parts(loaded)["vision_encoder"], parts_of(SECOND, "params"))


def test_a_stopped_tuning_ends_with_the_bytes_of_an_undisturbed_one(trained, tmp_path):
    model, corpora, _, undisturbed = trained
    encoder, stage = lit.lock(model)
    with pytest.raises(KeyboardInterrupt):
        tune(stage, corpora, tmp_path, stop=5)  # after the state of step 4
    assert not (tmp_path / "weights.npz").exists() and os.listdir(tmp_path / "state")
    checkpoints.save(lit.join(encoder, tune(stage, corpora, tmp_path)), tmp_path / "weights.npz")
    for name in ("weights.npz", "metrics.csv"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name

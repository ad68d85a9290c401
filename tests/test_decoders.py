"""Language models see the past only, ignore padding, and say the same with a cache as without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx

from vplib.method import losses
from vplib.method.speaking import reading_loss
from vplib.model import checkpoints, decoders, frozen
from vplib.model.checkpoints import CheckpointError
from vplib.model.decoders import CausalLM, Decoder, LanguageSizes
from vplib.model.resampler import Resampler

SIZES = LanguageSizes(width=16, layers=2, heads=4, mlp=32, vocabulary=24, context=20)

logits = jax.jit(lambda lm, embeddings, keep: lm(embeddings, keep))
likelihood = jax.jit(decoders.log_likelihood)
start = jax.jit(lambda lm, *given, length: lm.start(*given, length), static_argnames="length")
step = jax.jit(lambda lm, *given: lm.step(*given))


def decoder(seed: int = 0, **changes) -> Decoder:
    sizes = LanguageSizes(**{**vars(SIZES), **changes})
    return toy.filled(lambda: Decoder(sizes, rngs=nnx.Rngs(0)), seed)


def vectors(seed: int, rows: int, length: int, width: int = 16) -> jax.Array:
    """A prefix that is no text."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, length, width)), jnp.float32)


def ragged(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Kept tokens with padding before, between and behind them; at least one a row."""
    keep = np.random.default_rng(seed).random((rows, length)) < 0.6
    keep[:, length // 2] = True
    keep[0, 0], keep[1, -1] = False, False
    return keep


@pytest.fixture(scope="module")
def lm() -> Decoder:
    return decoder()


@pytest.fixture(scope="module", params=[20, None], ids=["learned", "rotary"])
def either(request) -> Decoder:
    """Of learned positions and of rotary ones."""
    return decoder(context=request.param)


def test_it_is_what_captioning_asks_for(lm):
    assert isinstance(lm, CausalLM) and (lm.width, lm.vocabulary, lm.context) == (16, 24, 20)


def test_a_later_token_changes_no_earlier_logit(either):
    keep = np.ones((2, 8), bool)
    keep[1, :2] = keep[1, 4] = False  # a padded token does not see the future either
    before, after = vectors(0, 2, 8), vectors(0, 2, 8).at[:, 5:].set(vectors(1, 2, 3))
    one, other = (np.asarray(logits(either, x, keep)) for x in (before, after))
    assert np.array_equal(one[:, :5], other[:, :5])
    assert np.abs(one[:, 5:] - other[:, 5:]).max(-1).min() > 0.01


def test_padding_anywhere_changes_nothing_of_the_kept_tokens(either):
    x = vectors(0, 1, 5)
    alone = logits(either, x, np.ones((1, 5), bool))
    for places in ([3, 4, 5, 6, 7], [0, 1, 4, 6, 7], [0, 1, 2, 3, 4]):
        padded = vectors(1, 1, 8).at[:, jnp.asarray(places)].set(x)
        keep = np.isin(np.arange(8), places)[None]
        assert toy.close(logits(either, padded, keep)[:, np.asarray(places)], alone)


def test_the_order_of_tokens_matters(either):
    """Without positions the last of a turned sequence would know the same."""
    x, keep = vectors(0, 1, 5), np.ones((1, 5), bool)
    turned = x[:, jnp.asarray([1, 0, 2, 3, 4])]
    assert not toy.close(logits(either, x, keep)[:, -1], logits(either, turned, keep)[:, -1], 1e-3)


def test_rotary_positions_are_differences():
    """Tokens that stand later by as much see the same."""
    lm, x = decoder(context=None), vectors(0, 1, 5)
    q, k, _ = lm.x_layers.__class__.heads(
        jax.tree.map(lambda z: z[0], lm.x_layers), x, jnp.arange(5)[None]
    )
    later, keys, _ = lm.x_layers.__class__.heads(
        jax.tree.map(lambda z: z[0], lm.x_layers), x, jnp.arange(5)[None] + 7
    )
    assert toy.close(q @ jnp.swapaxes(k, -1, -2), later @ jnp.swapaxes(keys, -1, -2))
    assert not toy.close(q, later, 1e-2)
    with pytest.raises(
        ValueError, match="heads of 5 dimensions cannot turn in pairs: choose an even"
    ):
        decoder(context=None, width=20)


def test_ours_enter_with_the_two_kept_tokens_before_them():
    lm, x = decoder(context=None), vectors(0, 1, 6)
    keep = jnp.asarray([[1, 1, 1, 0, 1, 1]], bool)
    before = decoders._earlier(x, keep, jnp.asarray([[0, 1, 2, 2, 3, 4]]))
    assert toy.close(before[0, 4], x[0, jnp.asarray([2, 1])]) and not before[0, 0].any()
    entered = lm.enter(x, jnp.zeros((1, 6), jnp.int32), before)
    w = toy.leaves(lm)["earlier"]
    assert toy.close(entered[0, 4], x[0, 4] + x[0, 2] @ w[0] + x[0, 1] @ w[1])


def test_a_big_table_is_looked_up_alike(lm, monkeypatch):
    x, keep, ids = vectors(0, 2, 6), jnp.ones((2, 6), bool), jnp.asarray([[3, 23], [0, 7]])
    small = lm.embed(ids), logits(lm, x, keep)
    monkeypatch.setattr(decoders, "SMALL", 0)
    assert np.array_equal(lm.embed(ids), small[0])
    assert toy.close(jax.jit(lambda lm: lm(x, keep))(lm), small[1])


def test_input_and_output_share_one_table(lm):
    x = vectors(0, 2, 3)
    table = toy.leaves(lm)["token_emb/emb_var"]
    assert toy.close(lm.head(x), x @ table.T, 1e-4)
    assert toy.close(lm.embed(jnp.asarray([[3, 23]])), table[jnp.asarray([[3, 23]])])
    assert sum(24 in value.shape for value in toy.leaves(lm).values()) == 1


# --- the cache -----------------------------------------------------------------------------------


def test_a_cache_gives_the_logits_of_the_whole_sequence(either):
    x, keep = vectors(0, 3, 10), ragged(3, 10)
    keep[:, 6:] = True
    whole = logits(either, x, keep)
    last = np.where(keep[:, :6], np.arange(6), 0).max(1)
    found, cache = start(either, x[:, :6], keep[:, :6], length=10)
    assert toy.close(found, whole[np.arange(3), last])
    for place in range(6, 10):
        found, cache = step(either, cache, x[:, place])
        assert toy.close(found, whole[:, place])
    assert cache.keep.tolist() == keep.tolist() and int(cache.used) == 10


def generate_uncached(lm, prefix, keep, *, steps: int, stop: int) -> np.ndarray:
    """The same from whole sequences, each row's padding taken out and its tokens at the left."""
    rows, length = len(prefix), prefix.shape[1] + steps
    ids, done = np.full((rows, steps), stop), np.zeros(rows, bool)
    x, kept = np.zeros((rows, length, lm.width), np.float32), np.zeros((rows, length), bool)
    count = keep.sum(1)
    for row in range(rows):
        x[row, : count[row]], kept[row, : count[row]] = np.asarray(prefix)[row, keep[row]], True
    for i in range(steps):
        token = np.asarray(logits(lm, jnp.asarray(x), kept)).argmax(-1)[
            np.arange(rows), count + i - 1
        ]
        ids[~done, i] = token[~done]
        done |= token == stop
        x[np.arange(rows), count + i] = np.asarray(lm.embed(jnp.asarray(token)[:, None]))[:, 0]
        kept[np.arange(rows), count + i] = True
    return ids


@pytest.mark.parametrize(("seed", "context"), [(0, 20), (1, 20), (2, 20), (3, None)])
def test_generation_with_the_cache_equals_generation_without(seed, context):
    lm, prefix, keep = decoder(seed, context=context), vectors(seed, 4, 8), ragged(4, 8, seed)
    free = generate_uncached(lm, prefix, keep, steps=12, stop=-1)
    assert len(set(free.flat)) > 3  # something happens
    stop = int(free[0, 5])
    found = np.asarray(decoders.generate(lm, prefix, keep, steps=12, stop=stop))
    known = generate_uncached(lm, prefix, keep, steps=12, stop=stop)
    assert found.tolist() == known.tolist()
    for said, unstopped in zip(found.tolist(), free.tolist(), strict=True):
        end = unstopped.index(stop) if stop in unstopped else 12
        assert said == unstopped[:end] + [stop] * (12 - end)


def test_where_all_have_stopped_nothing_more_is_computed(lm, monkeypatch):
    """Not only are tokens after the stop hidden: the loop ends."""
    prefix, keep, calls = vectors(0, 2, 3), jnp.ones((2, 3), bool), []
    monkeypatch.setattr(
        Decoder, "step", lambda lm, cache, x: (calls.append(1), (jnp.zeros((2, 24)), cache))[1]
    )
    monkeypatch.setattr(
        Decoder, "start", lambda lm, x, keep, length: (jnp.zeros((2, 24)).at[:, 7].set(1.0), 0)
    )
    with jax.disable_jit():
        assert decoders.generate(lm, prefix, keep, steps=6, stop=7).tolist() == [[7] * 6] * 2
    assert len(calls) == 1


# --- probabilities -------------------------------------------------------------------------------


def log_softmax(x) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_likelihoods_are_sums_over_the_kept_tokens(lm):
    prefix, keep = vectors(0, 3, 6), ragged(3, 6)
    ids = np.random.default_rng(0).integers(0, 24, (3, 5)).astype(np.int32)
    ids_keep = np.asarray([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]], bool)
    found = np.asarray(likelihood(lm, prefix, keep, ids, ids_keep))
    for row in range(3):
        said = ids[row, ids_keep[row]]
        x = jnp.concatenate([prefix[row, keep[row]], lm.embed(jnp.asarray(said[None]))[0]])
        x, first = jnp.pad(x, ((0, 11 - len(x)), (0, 0))), keep[row].sum() - 1
        logp = log_softmax(logits(lm, x[None], np.ones((1, 11), bool)))[0, first:]
        known = logp[np.arange(len(said)), said].sum()
        assert found[row] == pytest.approx(known, abs=1e-4)


def test_candidates_of_one_token_are_ranked_by_their_likelihood(lm):
    prefix, keep = vectors(0, 2, 4), ragged(2, 4)
    found = jax.jit(decoders.next_log_probabilities)(lm, prefix, keep)
    assert np.allclose(np.exp(found).sum(-1), 1, atol=1e-5)
    for token in (0, 5, 23):
        one = jnp.full((2, 1), token)
        known = likelihood(lm, prefix, keep, one, jnp.ones((2, 1), bool))
        assert toy.close(found[:, token], known, 1e-4)


def test_half_precision_says_nearly_the_same(lm):
    x, keep = vectors(0, 2, 6), np.ones((2, 6), bool)
    whole, half = logits(lm, x, keep), logits(lm, x.astype(jnp.bfloat16), keep)
    hidden = jax.eval_shape(lm.hidden, x.astype(jnp.bfloat16), keep)
    assert half.dtype == jnp.float32 and hidden.dtype == jnp.bfloat16
    assert 1e-4 < np.abs(np.asarray(half - whole)).max() < 0.1 * np.asarray(whole).std()
    ids = jax.eval_shape(
        lambda: decoders.generate(lm, x.astype(jnp.bfloat16), keep, steps=3, stop=0)
    )
    assert ids.shape == (2, 3)


def test_laid_out_once_it_is_the_same(lm):
    graph, weights = frozen.apart(lm, "float32")
    x, keep = vectors(0, 2, 6), jnp.ones((2, 6), bool)
    found = jax.jit(lambda weights: frozen.together(graph, weights)(x, keep))(weights)
    assert toy.close(found, logits(lm, x, keep))


# --- learning ------------------------------------------------------------------------------------

TEXTS = jnp.asarray(  # 1 begins and ends a text, 0 is padding
    [
        [1, 5, 6, 7, 8, 1, 0, 0],
        [1, 9, 6, 7, 10, 11, 12, 1],
        [1, 13, 7, 6, 5, 1, 0, 0],
        [1, 14, 7, 6, 15, 16, 1, 0],
    ],
    jnp.int32,
)
KEEP = jnp.cumsum(TEXTS == 1, 1) - (TEXTS == 1) < 2
NOTHING = {"told": jnp.zeros((4, 1), int), "bags": jnp.zeros((4, 1, 1), bool)}
BATCH = {"ids": TEXTS, "keep": KEEP, "said": KEEP, **NOTHING}


def fit(model: nnx.Module, loss, *, steps: int, rate: float) -> tuple[nnx.Module, list[float]]:
    graph, params = nnx.split(model)
    tx = optax.adam(rate)

    @jax.jit
    def run(params):
        def update(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: loss(nnx.merge(graph, p)))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), values = jax.lax.scan(update, (params, tx.init(params)), length=steps)
        return params, values

    params, values = run(params)
    return nnx.merge(graph, params), values.tolist()


@pytest.fixture(scope="module")
def speaker() -> Decoder:
    """Knows four texts by heart."""
    sizes = LanguageSizes(**{**vars(SIZES), "width": 32})
    new = jax.jit(lambda: Decoder(sizes, rngs=nnx.Rngs(0)))()
    last = new.x_layers.self_attention.post.w[...]  # of variance 1 / (32 x twice the layers)
    assert abs(last.std() * (32 * 4) ** 0.5 - 1) < 0.1
    model, values = fit(new, lambda m: reading_loss(m, BATCH)[0], steps=150, rate=0.01)
    assert abs(values[0] - np.log(24)) < 1  # a new one knows nothing
    # Which text it is shows in the first word alone: a quarter each.
    assert values[-1] < 1.1 * 4 * np.log(4) / (KEEP.sum() - 4)
    return model


def test_it_learns_a_small_language_by_heart(speaker):
    keep = jnp.ones((4, 2), bool)
    said = decoders.generate(speaker, speaker.embed(TEXTS[:, :2]), keep, steps=6, stop=1)
    assert said.tolist() == jnp.where(KEEP, TEXTS, 1)[:, 2:].tolist()


def test_a_resampler_alone_makes_a_frozen_model_say_what_a_video_shows(speaker):
    videos, before = vectors(0, 4, 6, 12), checkpoints.digest(checkpoints.flatten(speaker))
    told, told_keep = TEXTS[:, 1:], KEEP[:, 1:]
    begin = speaker.embed(TEXTS[:, :1])

    def prefix(resampler):
        return jnp.concatenate([resampler(videos), begin], axis=1)

    keep = jnp.ones((4, 5), bool)
    resampler = toy.filled(lambda: Resampler(4, 32, 12, 2, rngs=nnx.Rngs(0)))
    resampler, values = fit(
        resampler,
        lambda r: losses.continuation(speaker, prefix(r), keep, told, told_keep, told_keep),
        steps=150,
        rate=0.02,
    )
    assert values[-1] < 0.1 < values[0]
    say = jax.jit(lambda r: decoders.generate(speaker, prefix(r), keep, steps=7, stop=1))
    said = say(resampler)
    assert said.tolist() == jnp.where(told_keep, told, 1).tolist()
    assert checkpoints.digest(checkpoints.flatten(speaker)) == before


# --- files and errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(("half", "context"), [(False, 20), (True, 20), (False, None)])
def test_a_file_gives_the_model_back(tmp_path, half, context):
    lm = decoder(mlp=48, context=context)
    checkpoints.save(lm, tmp_path / "weights.npz", half=half)
    back = decoders.load(tmp_path / "weights.npz")
    sizes = LanguageSizes(**{**vars(SIZES), "mlp": 48, "context": context})
    assert decoders.infer(checkpoints.flatten(back)) == sizes and back.context == (context or 512)
    for name, value in toy.leaves(lm).items():
        assert np.allclose(toy.leaves(back)[name], value, rtol=2**-11 if half else 0)
    x, keep = vectors(0, 2, 6), np.ones((2, 6), bool)
    assert toy.close(logits(back, x, keep), logits(lm, x, keep), 0.02 if half else 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"token_emb/emb_var": None},
            r"holds no language model of ours: .*/emb_var of 2 axes and has none",
        ),
        ({"token_emb/emb_var": np.zeros((24, 0))}, r"has one of shape \(24, 0\); give the weights"),
        ({"pos_emb/emb_var": np.zeros((20, 8))}, r"is of another size: pos_emb/emb_var has shape"),
        ({"final_ln/bias": None}, r"is of another model: it lacks final_ln/bias"),
        ({"more": np.zeros(2)}, r"is of another model: it has unknown more"),
    ],
)
def test_other_weights_are_one_sentence(tmp_path, lm, change, message):
    weights = checkpoints.flatten(lm)
    for name, value in change.items():
        weights.pop(f"params/{name}", None)
        weights |= {} if value is None else {f"params/{name}": np.asarray(value, np.float32)}
    np.savez(tmp_path / "weights.npz", **weights)
    with pytest.raises(CheckpointError, match=message):
        decoders.load(tmp_path / "weights.npz")


def test_too_long_prompts_and_unknown_tokens_are_one_sentence(lm):
    x, keep = vectors(0, 1, 21), jnp.ones((1, 21), bool)
    long = r"^a sequence of 21 tokens, with what is to follow, is longer than .* context of 20: sho"
    with pytest.raises(ValueError, match=long):
        lm(x, keep)
    with pytest.raises(ValueError, match=long):
        decoders.generate(lm, x[:, :5], keep[:, :5], steps=16, stop=0)
    assert decoders.generate(lm, x[:, :5], keep[:, :5], steps=15, stop=0).shape == (1, 15)
    ids = jnp.zeros((1, 16), jnp.int32)
    with pytest.raises(ValueError, match=long):
        decoders.log_likelihood(lm, x[:, :5], keep[:, :5], ids, ids == 0)
    with pytest.raises(ValueError, match=r"^a prefix of 5 tokens does not fit into a cache of 4 "):
        lm.start(x[:, :5], keep[:, :5], 4)
    for wrong in (24, -1):
        with pytest.raises(
            ValueError, match=rf"^token {wrong} is none of the 24 that the language"
        ):
            lm.embed(jnp.asarray([[0, wrong]]))
    with pytest.raises(ValueError, match=r"^a width of 16 does not divide into 3 heads: choose a"):
        decoder(heads=3)

"""Layers and encoders equal other implementations and are blind to what is masked or padded."""

import re
from dataclasses import replace
from types import ModuleType

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import toy
from flax import nnx

from vplib import config, environment, paths
from vplib.method.masking import random_visible
from vplib.model import attention, checkpoints, layers
from vplib.model.attention import attend, product
from vplib.model.encoders import (
    TextEncoder,
    VideoEncoder,
    VideoText,
    configure,
    normalise,
    patchify,
    pixels,
)
from vplib.model.layers import AttentionPool, Block, LayerNorm, Stack, gelu, one_hot_rows
from vplib.model.sizes import Sizes

GOLDEN = paths.ROOT / "tests" / "golden"  # from PyTorch, see make_goldens.py
REFERENCE = paths.ROOT.parent / "shared" / "golden"  # from the released Linen code
reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the folder with outputs of the released code is absent"
)

encode = jax.jit(
    lambda encoder, video, **given: encoder(video, **given), static_argnames=("crop", "features")
)


encode_frames = jax.jit(lambda model, video: model.encode_frames(video))
classify = jax.jit(lambda model, video: (model(video), model.features(video)["global_embeddings"]))


@jax.jit
def encode_and_embed(model, video):
    tokens = model.vision_encoder(video)
    return tokens, normalise(model.pool(tokens))


def arrays(path):
    with np.load(path) as file:
        return dict(file)


# --- other implementations -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return arrays(GOLDEN / "videotext.npz")


def built(known: dict[str, np.ndarray]):
    return checkpoints.build(
        {name: value for name, value in known.items() if name.startswith("params/")}
    )


@pytest.fixture(scope="module")
def ported(golden) -> VideoText:
    return built(golden)


@pytest.mark.parametrize(
    "case", ["train_shape", "more_frames", "fewer_frames", "other_size", "smaller_size", "wide"]
)
def test_video_equals_the_pytorch_implementation_also_with_interpolated_tables(
    ported, golden, case
):
    tokens, embedding = encode_and_embed(ported, golden[f"{case}/video"])
    assert toy.close(tokens, golden[f"{case}/tokens"], 1e-4)
    assert toy.close(embedding, golden[f"{case}/video_embedding"], 1e-4)


def test_text_equals_the_pytorch_implementation(ported, golden):
    embedding = ported.encode_text(
        jnp.asarray(golden["text/ids"]), jnp.asarray(golden["text/keep"])
    )
    assert toy.close(embedding, golden["text/text_embedding"], 1e-4)


@pytest.mark.parametrize("case", ["train_shape", "more_frames"])
def test_classifier_equals_the_pytorch_implementation(case):
    known = arrays(GOLDEN / "classifier.npz")
    assert toy.close(
        classify(built(known), known[f"{case}/video"])[0], known[f"{case}/logits"], 1e-4
    )


def test_half_precision_points_the_same_way(ported, golden):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ported)
    tokens, embedding = encode_and_embed(half, golden["train_shape/video"].astype(jnp.bfloat16))
    text = half.encode_text(jnp.asarray(golden["text/ids"]), jnp.asarray(golden["text/keep"]))
    for ours, theirs in (
        (tokens, golden["train_shape/tokens"]),
        (embedding, golden["train_shape/video_embedding"]),
        (text, golden["text/text_embedding"]),
    ):
        assert ours.dtype == (jnp.bfloat16 if ours is tokens else jnp.float32)
        assert (normalise(ours) * normalise(jnp.asarray(theirs))).sum(-1).min() >= 0.999


def reference_model(name: str):
    """The toy model of the released code."""
    return checkpoints.build(checkpoints.read(REFERENCE / f"{name}_params.npz"))


@reference
@pytest.mark.parametrize("case", ["train_shape", "more_frames", "other_res", "padded_frames"])
def test_encoder_equals_the_released_code(case):
    known = arrays(REFERENCE / "encoder_io.npz")
    video = known["more_frames/video" if case == "padded_frames" else f"{case}/video"]
    paddings = known.get(f"{case}/frame_paddings")
    tokens, features = encode(reference_model("encoder"), video, paddings=paddings, features=True)
    assert toy.close(tokens, known[f"{case}/tokens"], 1e-4)
    if case != "padded_frames":
        assert toy.close(features["spatial_features"], known[f"{case}/spatial_features"], 1e-4)


@reference
@pytest.mark.parametrize("case", ["train_shape", "more_frames", "other_res"])
def test_video_text_model_equals_the_released_code(case):
    known = arrays(REFERENCE / "lvt_io.npz")
    model = reference_model("lvt")
    assert toy.close(
        encode_and_embed(model, known[f"{case}/video"])[1], known[f"{case}/video_embedding"], 1e-4
    )
    embedding = model.encode_text(
        jnp.asarray(known["text_ids"]), jnp.asarray(known["text_paddings"] == 0)
    )
    assert toy.close(embedding, known[f"{case}/text_embedding"], 1e-4)
    frames = encode_frames(model, known[f"{case}/video"])
    assert toy.close(frames, known[f"{case}/frame_embeddings"], 1e-4)


@reference
@pytest.mark.parametrize("case", ["train_shape", "more_frames"])
def test_classifier_equals_the_released_code(case):
    known = arrays(REFERENCE / "classifier_io.npz")
    logits, pooled = classify(reference_model("classifier"), known[f"{case}/video"])
    assert toy.close(logits, known[f"{case}/logits"], 1e-4)
    assert toy.close(pooled, known[f"{case}/global_embeddings"], 1e-4)


def test_new_models_start_as_released_but_for_patches_which_see_standardised_pixels():
    encoder = VideoEncoder(replace(toy.SIZES, width=64, spatial_layers=2), rngs=nnx.Rngs(0))
    block = encoder.spatial_encoder.transformers_stack.x_layers
    for values, fan_in in (
        (block.self_attention.post.w, 64),
        (block.ff_layer.ffn_layer2.linear.kernel, 32),
    ):
        assert (
            abs(values[...].std() * fan_in**0.5 - 1) < 0.1
            and abs(values[...].mean()) < 0.1 / fan_in**0.5
        )
    assert not block.layer_norm.scale[...].any() and not block.self_attention.post.b[...].any()
    first, second = block.self_attention.query.w[...]
    assert not toy.close(first, second, 0.1)  # layers start differently
    patches = np.random.default_rng(0).normal(0.5, 0.25, (1000, 48)).astype(np.float32)
    projected = np.asarray(encoder.patch_projection(jnp.asarray(patches)))
    assert abs(projected.std() - 1) < 0.05 and abs(projected.mean(0)).max() < 0.2


# --- layers --------------------------------------------------------------------------------------


def test_attention_caps_logits_before_it_masks():
    # Three of K N H.
    q, k, v = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 5, 4)) * 3, jnp.float32)
    mask = jnp.tril(jnp.ones((5, 5), bool))
    weights = jnp.exp(10 * jnp.tanh(q @ k.swapaxes(1, 2) / 10)) * mask
    expected = weights / weights.sum(-1, keepdims=True) @ v
    assert toy.close(attend(q, k, v, cap=10.0, mask=mask[None]), expected)
    assert not toy.close(attend(q, k, v, mask=mask[None]), expected, 1e-2)


def attention_and_gradients(*qkv, cap=10.0, **options):
    """The mean of attention's sine, and the gradients of its arguments, scaled to about one."""
    loss = jax.value_and_grad(
        lambda qkv: jnp.sin(attend(*qkv, cap=cap, **options).astype(jnp.float32)).sum() / 64
    )
    return jax.jit(loss)(qkv)


def heads(*tokens: int) -> list[jax.Array]:
    """Random queries, keys and values of 2 x 3 sequences with two heads of size 32."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, 3, 2, n, 32)), jnp.float32) for n in tokens]


def test_queries_may_be_taken_in_pieces(monkeypatch):
    """What keeps many logits out of memory changes neither attention nor its gradients."""
    qkv = heads(12, 8, 8)
    whole = attention_and_gradients(*qkv)
    # Logits of five queries fit, and 12 queries divide into pieces of four.
    monkeypatch.setattr(attention, "LOGITS", 4 * 2 * 8 * 5)
    assert "f32[2,3,2,4,8]" in str(jax.make_jaxpr(attend)(*qkv)) and "f32[2,3,2,12,8]" not in str(
        jax.make_jaxpr(attend)(*qkv)
    )
    for mine, known in zip(
        jax.tree.leaves(attention_and_gradients(*qkv)), jax.tree.leaves(whole), strict=True
    ):
        assert toy.close(mine, known)


@pytest.mark.parametrize(
    ("cap", "dtype", "error"),
    [(10.0, jnp.float32, 1e-4), (None, jnp.float32, 1e-4), (10.0, jnp.bfloat16, 0.1)],
)
@pytest.mark.parametrize("kernel", attention.KERNELS)
def test_kernels_equal_plain_attention(kernel, cap, dtype, error):
    if kernel == "tokamax":
        pytest.importorskip("tokamax", reason="needs the extra [kernels]")
    qkv = [x.astype(dtype) for x in heads(128, 128, 128)]
    assert (
        "pallas_call" in str(jax.make_jaxpr(lambda: attend(*qkv, kernel=kernel))())
        or kernel == "tokamax"
    )
    assert attend(*qkv, cap=cap, kernel=kernel).dtype == dtype
    results = (
        jax.tree.leaves(attention_and_gradients(*qkv, cap=cap, kernel=name))
        for name in (kernel, "plain")
    )
    for mine, known in zip(*results, strict=True):
        assert toy.close(mine.astype(jnp.float32), known.astype(jnp.float32), error)


def test_kernels_leave_masked_and_odd_sequences_to_plain_attention():
    for qkv, mask in (
        (heads(128, 128, 128), jnp.ones((1, 128, 128), bool)),
        (heads(90, 90, 90), None),
        (heads(1, 128, 128), None),
    ):
        jaxpr = str(
            jax.make_jaxpr(lambda qkv=qkv, mask=mask: attend(*qkv, mask=mask, kernel="splash"))()
        )
        assert "pallas_call" not in jaxpr


def test_tokamax_where_it_cannot_work_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise NotImplementedError("Not supported on Tesla T4.")

    fake = ModuleType("tokamax")
    fake.dot_product_attention = fail
    monkeypatch.setattr(attention, "_import_tokamax", lambda: fake)
    with pytest.raises(
        ValueError,
        match=r"^hardware.attention=tokamax cannot work here \(Not supported on Tesla T4\.\): it needs a GPU of "
        r"compute capability 9 or 10 and hardware.dtype=bfloat16; choose hardware.attention=plain$",
    ):
        attend(*heads(128, 128, 128), kernel="tokamax")


@pytest.mark.parametrize("remat", [False, True])
def test_accelerators_compute_the_same(remat, monkeypatch):
    """They take all sequences at once and keep rows together: no other result."""
    encoder = toy.encoder(spatial_layers=2)
    configure(encoder, remat=remat)
    video = toy.pixels(0, 2)
    visible = jnp.asarray(
        np.sort(
            np.random.default_rng(0).permuted(np.tile(np.arange(9), (2, 3, 1)), axis=-1)[..., :4]
        )
    )

    def results(**given):
        loss = jax.jit(jax.value_and_grad(lambda encoder: jnp.sin(encoder(video, **given)).mean()))
        return jax.tree.leaves(loss(encoder))

    for given in ({}, {"visible": visible}):
        monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
        known = results(**given)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        for one, other in zip(results(**given), known, strict=True):
            assert toy.close(one, other)


def test_an_unknown_kernel_is_one_sentence():
    with pytest.raises(
        ValueError, match="hardware.attention=flash is unknown: one of plain, splash, tokamax"
    ):
        attend(*heads(4, 4, 4), kernel="flash")


def test_a_kernel_reaches_every_unmasked_layer(monkeypatch):
    called = []
    monkeypatch.setitem(attention.KERNELS, "splash", lambda q, k, v, cap: called.append(cap) or v)
    encoder = toy.encoder(patch=1, size=16, frames=128)
    stage = toy.stage2(global_loss=False)
    for part in (encoder, stage):
        configure(part, kernel="splash")
    jax.eval_shape(encoder, jnp.zeros((1, 128, 16, 16, 3)))
    assert called == [layers.LOGIT_CAP] * 2  # the spatial and the temporal stack
    jax.eval_shape(stage.local_decoder.stack, jnp.zeros((1, 128, 16)))
    assert called[2:] == [None]


def test_gelu_is_exact_in_single_precision_and_rounded_once_in_half():
    x = jnp.linspace(-6, 6, 1001)
    assert toy.close(gelu(x), jax.nn.gelu(x, approximate=False), 2e-6)
    half = x.astype(jnp.bfloat16)
    assert (gelu(half) == gelu(half.astype(jnp.float32)).astype(jnp.bfloat16)).all()


def test_attention_pool_equals_plain_attention_with_queries_keys_and_values():
    pool = toy.filled(lambda: AttentionPool(16, 2, inner=64, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 7, 16)), jnp.float32)
    part = pool.pooling_attention
    q = (
        jnp.einsum("nd,dkh->nkh", pool.pooling_attention_query[...], part.query.w[...])
        + part.query.b[...]
    )
    k, v = (jnp.einsum("bsd,dkh->bskh", x, p.w[...]) + p.b[...] for p in (part.key, part.value))
    w = part.per_dim_scale.per_dim_scale[...]
    # softplus(w) / softplus(0) / sqrt(head size)
    q = q * jnp.log1p(jnp.exp(w)) / jnp.log(2.0) / 32**0.5
    weights = jax.nn.softmax(jnp.einsum("nkh,bskh->bkns", q, k))
    y = jnp.einsum("bkns,bskh->bnkh", weights, v)
    y = jnp.einsum("bnkh,dkh->bnd", y, part.post.w[...]) + part.post.b[...]
    assert toy.close(pool(x), pool.pooling_attention_layer_norm(y)[:, 0])


def test_one_hot_rows_are_rows_with_the_gradient_of_rows():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    index, g = jnp.array([[4, 0, 4], [1, 1, 2]]), jnp.arange(18.0).reshape(2, 3, 3)
    assert toy.close(one_hot_rows(table, index), table[index])
    gradients = [
        jax.grad(lambda t, rows=rows: (rows(t) * g).sum())(table)
        for rows in (lambda t: one_hot_rows(t, index), lambda t: t[index])
    ]
    assert toy.close(*gradients)


def test_primer_hybrid_blocks_have_a_norm_before_and_after_each_part():
    block = toy.filled(lambda: Block(16, 2, 32, norm="primer_hybrid", rngs=nnx.Rngs(0)))
    assert {name.split("/")[-2] for name in toy.leaves(block) if name.endswith("scale")} == {
        "pre_layer_norm",
        "post_layer_norm",
    }
    x = toy.pixels(0, 1).reshape(9, 9, 16)
    y = x + block.post_layer_norm(block.self_attention(block.pre_layer_norm(x)))
    part = block.ff_layer
    z = part.ffn_layer2(gelu(part.ffn_layer1(part.pre_layer_norm(y))))
    assert toy.close(block(x), y + part.post_layer_norm(z))


# --- the video encoder ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return toy.encoder(spatial_layers=2)


def test_patches_are_row_major_and_hold_rows_columns_channels():
    video = jnp.arange(2 * 3 * 8 * 12 * 3, dtype=jnp.float32).reshape(2, 3, 8, 12, 3)
    patches = patchify(video, 4)
    assert patches.shape == (2, 3, 6, 48)
    assert (patches[1, 2, 4] == video[1, 2, 4:8, 4:8].reshape(-1)).all()


def test_a_size_that_does_not_divide_is_one_sentence(encoder):
    with pytest.raises(
        ValueError,
        match=r"^video frames of 12x14 pixels do not divide into 4-pixel patches: resize "
        r"to multiples of 4, for example 12x12$",
    ):
        encoder(jnp.zeros((1, 3, 12, 14, 3)))
    with pytest.raises(ValueError, match=r"for example 4x12$"):
        encoder(jnp.zeros((1, 3, 2, 14, 3)))


@pytest.mark.parametrize(
    "shape",
    [(1, 3, 3, 12, 12), (3, 12, 12, 3), (1, 3, 12, 12, 1), (1, 3, 12, 12, 4), (1, 0, 12, 12, 3)],
    ids=["channels first", "no clips", "grey", "opacity", "no frames"],
)
def test_an_array_of_other_axes_is_one_sentence_that_names_them(encoder, shape, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside tests
    with pytest.raises(
        ValueError,
        match=rf"^a video of shape {re.escape(str(shape))} is none of axes \(clips, frames, height, width, 3 "
        r"colours\): move, add or repeat axes until it is$",
    ):
        encoder(pixels(jnp.zeros(shape, jnp.uint8)))


def test_all_places_visible_is_dense(encoder):
    video = toy.pixels(0, 2)
    dense = encode(encoder, video)
    everywhere = jnp.broadcast_to(jnp.arange(9), (2, 3, 9))
    assert toy.close(encode(encoder, video, visible=everywhere[:, 0]), dense)
    assert toy.close(encode(encoder, video, visible=everywhere), dense)


def test_a_tube_is_the_same_as_equal_places_frame_by_frame(encoder):
    video, places = toy.pixels(0, 2), jnp.array([[0, 4, 5, 8], [1, 2, 3, 7]])
    tube = encode(encoder, video, visible=places)
    assert tube.shape == (2, 12, 16)
    assert toy.close(
        tube, encode(encoder, video, visible=jnp.broadcast_to(places[:, None], (2, 3, 4)))
    )


def replace_patch(video, frame: int, place: int):
    """The video with other pixels at one place (of 3 x 3, 4 pixels each) of one frame."""
    top, left = 4 * (place // 3), 4 * (place % 3)
    return video.at[:, frame, top : top + 4, left : left + 4].add(0.5)


def test_dropped_patches_have_no_influence_and_seen_ones_do(encoder):
    video = toy.pixels(0, 1)
    places = jnp.array([[[0, 4, 5], [0, 1, 8], [2, 5, 7]]])  # B T V
    tokens = encode(encoder, video, visible=places)
    assert toy.close(encode(encoder, replace_patch(video, 1, 5), visible=places), tokens, 0)
    assert not toy.close(encode(encoder, replace_patch(video, 1, 8), visible=places), tokens, 1e-3)


def test_a_place_that_a_frame_lacks_is_absent_from_temporal_attention(encoder):
    """Place 4 is visible in frame 0 only, so its token there cannot know the other frames; place 5
    is also in frame 2."""
    video, places = toy.pixels(0, 1), jnp.array([[[0, 4, 5], [0, 1, 8], [2, 5, 7]]])
    before = encode(encoder, video, visible=places)[0]
    after = encode(encoder, replace_patch(replace_patch(video, 1, 8), 2, 7), visible=places)[0]
    assert toy.close(before[1], after[1], 0)
    assert not toy.close(before[2], after[2], 1e-3)


@pytest.mark.parametrize("padded", [False, True])
def test_ragged_temporal_attention_is_masked_attention_over_all_visible_tokens(encoder, padded):
    """The plain form: one sequence of all visible tokens, in which equal places see each other.
    Tokens and gradients are equal."""
    video = toy.pixels(0, 4)
    # B T V
    places = jnp.stack(
        [random_visible(key, 3, 9, 4) for key in jax.random.split(jax.random.key(0), 4)]
    )
    paddings = jnp.zeros((4, 3)).at[1, 2].set(1).at[2, 1:].set(1) if padded else jnp.zeros((4, 3))
    real = jnp.repeat(paddings == 0, 4, axis=1)
    flat = places.reshape(4, 12)
    mask = (flat[:, :, None] == flat[:, None]) & real[:, None]

    def plain(encoder):
        given = dict(visible=places, paddings=paddings if padded else None, features=True)
        _, features = encoder(video, **given)
        time = encoder.temporal_pos_emb.emb_var[...]
        x = features["spatial_features"].reshape(4, 3, 4, 16) + time[:, None]
        return encoder.temporal_ln(encoder.temporal_encoder(x.reshape(4, 12, 16), mask[:, None]))

    def ours(encoder):
        return encoder(video, visible=places, paddings=paddings if padded else None)

    def summed(form):
        def loss(encoder):
            tokens = jnp.where(real[..., None], form(encoder), 0)
            return jnp.sin(tokens).sum(), tokens

        return jax.jit(jax.grad(loss, has_aux=True))(encoder)

    (gradients, tokens), (expected, known) = summed(ours), summed(plain)
    assert toy.close(tokens, known)
    expected = toy.leaves(expected)
    for name, gradient in toy.leaves(gradients).items():
        np.testing.assert_allclose(expected[name], gradient, rtol=1e-3, atol=1e-3, err_msg=name)


def test_images_crop_the_time_table_and_short_clips_interpolate_it(encoder):
    image, table = toy.pixels(0, 2, frames=1), encoder.temporal_pos_emb.emb_var[...]
    later = toy.encoder(spatial_layers=2)
    later.temporal_pos_emb.emb_var[...] = table.at[1:].add(table[::-1][1:])
    assert toy.close(encode(later, image, crop=True), encode(encoder, image, crop=True), 0)
    assert not toy.close(encode(later, image), encode(encoder, image), 1e-3)


def test_padded_frames_have_no_influence(encoder):
    video, paddings = toy.pixels(0, 2), jnp.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    tokens = encode(encoder, video, paddings=paddings).reshape(2, 3, 9, 16)
    other = video.at[0, 2].set(0).at[1, 1:].set(1)
    changed = encode(encoder, other, paddings=paddings).reshape(2, 3, 9, 16)
    assert toy.close(changed[0, :2], tokens[0, :2], 0) and toy.close(
        changed[1, :1], tokens[1, :1], 0
    )
    short = encode(encoder, video[:1, :2], crop=True).reshape(2, 9, 16)
    assert toy.close(tokens[0, :2], short)


def test_recomputation_changes_no_gradient_and_is_asked_for_in_every_stack():
    x = toy.pixels(0, 1).reshape(1, -1, 16)
    stack = toy.filled(lambda: Stack(2, 16, 2, 32, rngs=nnx.Rngs(0)))
    gradients = []
    for remat in (False, True):
        configure(stack, remat=remat)
        gradients.append(
            toy.leaves(jax.jit(jax.grad(lambda stack: jnp.square(stack(x)).sum()))(stack))
        )
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, rtol=1e-4, atol=1e-3)
    model = toy.video_text(aux_layers=1)
    configure(model, remat=True)
    stacks = [part for _, part in nnx.iter_graph(model) if isinstance(part, Stack)]
    assert len(stacks) == 4 and all(part.remat for part in stacks)


def test_blocks_that_keep_their_values_run_without_a_loop():
    x = toy.pixels(0, 1).reshape(1, -1, 16)
    stack = toy.filled(lambda: Stack(2, 16, 2, 32, rngs=nnx.Rngs(0)))
    gradient = jax.grad(lambda stack: jnp.square(stack(x)).sum())
    loops = []
    for remat in (False, True):
        configure(stack, remat=remat)
        loops.append(jax.jit(gradient).lower(stack).as_text().count("stablehlo.while"))
    assert loops[0] == 0 < loops[1]


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("erf", gelu),
        ("rsqrt", LayerNorm(16)),
        ("exp", lambda x: attend(x, x, x)),
        ("exp", lambda x: attend(x, x, x, mask=jnp.eye(4, dtype=bool)[None])),
    ],
    ids=["gelu", "norm", "attention", "masked attention"],
)
def test_elementwise_work_is_computed_again_for_the_gradient(word, part):
    """As it is cheaper than reading what was kept: each occurs forwards and once more backwards."""
    x = jnp.ones((2, 4, 16))
    gradient = jax.make_jaxpr(jax.grad(lambda x: jnp.sin(part(x)).sum()))(x)
    assert str(gradient).count(f" {word} ") == 2


@pytest.mark.parametrize("masks", ["none", "padded frames", "places"])
def test_sequences_may_be_computed_a_few_at_a_time(encoder, monkeypatch, masks):
    """What a CPU does with batches larger than its cache changes neither tokens nor gradients."""
    video, given = toy.pixels(0, 2), {}
    if masks == "padded frames":
        given = {"paddings": jnp.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])}
    if masks == "places":
        given = {"visible": jnp.array([[[0, 4, 5], [0, 1, 8], [2, 5, 7]]] * 2)}
    loops, results = [], []
    for cache in (layers.CACHE, 1):
        monkeypatch.setattr(layers, "CACHE", cache)
        run = jax.value_and_grad(lambda encoder: jnp.sin(encoder(video, **given)).sum())
        loops.append(str(jax.make_jaxpr(run)(encoder)).count("scan["))
        results.append(jax.jit(run)(encoder))
    assert loops[1] > loops[0]
    assert toy.close(results[1][0], results[0][0], 1e-3)
    expected, gradients = (toy.leaves(result[1]) for result in results)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-3, atol=1e-3)


def test_half_precision_pixels_give_half_precision_tokens(encoder):
    video = toy.pixels(0, 1)
    tokens = encode(encoder, video.astype(jnp.bfloat16))
    assert tokens.dtype == jnp.bfloat16
    assert toy.close(tokens.astype(jnp.float32), encode(encoder, video), 0.3)


def test_bfloat16_tokens_of_the_base_size_point_where_those_of_float32_do():
    """Two frames, random weights."""
    sizes = replace(Sizes.of(config.check("30_stage2", "scale=smoke model=base").model), frames=2)
    encoder = VideoEncoder(sizes, rngs=nnx.Rngs(0))
    video = jax.random.uniform(jax.random.key(1), (1, 2, sizes.size, sizes.size, 3))
    whole, half = (
        normalise(encode(encoder, video.astype(dtype))) for dtype in ("float32", "bfloat16")
    )
    cosines = (whole * half).sum(-1)
    assert cosines.shape == (1, 512) and cosines.min() >= 0.999


def test_on_a_cpu_every_product_of_bfloat16_is_summed_in_float32(encoder):
    """The only ones for which XLA has fast kernels there."""
    visible = random_visible(jax.random.key(0), 3, encoder.grid**2, 4)[None]
    for given in ({}, {"visible": visible}):
        run = jax.make_jaxpr(lambda video: encoder(video, **given))  # noqa: B023
        program = str(run(toy.pixels(0, 1).astype(jnp.bfloat16)))
        assert program.count("preferred_element_type=float32") >= 8
        assert "preferred_element_type=bfloat16" not in program


def test_products_of_an_old_jaxlib_are_those_of_today(monkeypatch):
    x, y = (jax.random.normal(jax.random.key(k), (4, 8, 8), jnp.bfloat16) for k in (0, 1))
    now = product(x, y)
    monkeypatch.setattr(environment, "JAXLIB", (0, 7))
    before = product(x, y)
    assert now.dtype == before.dtype == jnp.float32
    assert toy.close(before, now, 1e-5)


# --- the text encoder ----------------------------------------------------------------------------


def test_padding_has_no_influence_on_a_text():
    encoder = toy.filled(lambda: TextEncoder(toy.SIZES, rngs=nnx.Rngs(0)))
    run = jax.jit(lambda encoder, ids, keep: encoder(ids, keep))
    keep = np.array([[True] * 3 + [False] * 3])
    embedding = run(encoder, np.array([[5, 6, 7, 0, 0, 0]]), keep)
    assert toy.close(run(encoder, np.array([[5, 6, 7, 9, 9, 9]]), keep), embedding, 0)
    assert not toy.close(run(encoder, np.array([[5, 7, 6, 0, 0, 0]]), keep), embedding, 1e-3)


def test_large_vocabularies_look_up_the_same_rows():
    small, large = (
        toy.filled(
            lambda pieces=pieces: TextEncoder(
                replace(toy.SIZES, vocabulary=pieces), rngs=nnx.Rngs(0)
            )
        )
        for pieces in (24, 5000)
    )
    weights = checkpoints.flatten(small)
    weights["params/token_emb/emb_var"] = np.resize(weights["params/token_emb/emb_var"], (5000, 16))
    checkpoints.assign(large, weights)
    ids, keep = jnp.array([[5, 6, 7, 23]]), jnp.ones((1, 4), bool)
    assert toy.close(large(ids, keep), small(ids, keep))

"""Stage 1 (video-text contrastive) and stage 2 (masked distillation with token shuffling).

Source: VideoPrism (arXiv:2402.13217) section 2.3, Algorithm 1 and Table 11. What the paper leaves
open is marked "our choice".
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vplib.method.losses import contrastive, cosine_distance, normalised_patches, squared_error
from vplib.method.masking import draw_mask, random_visible, shuffle_orders, visible_count
from vplib.model.encoders import (
    Transformer,
    VideoClassifier,
    VideoEncoder,
    VideoText,
    by_frame,
    by_images,
    pixels,
)
from vplib.model.layers import AttentionPool, Dense, lecun, permute
from vplib.model.sizes import Sizes


class Stage1(nnx.Module):
    """The video-text model and its temperature (learnable, as a log of its inverse, starting at
    0.07 as in CoCa: our choice)."""

    def __init__(self, model: VideoText):
        self.model = model
        # Not a bare float: weakly typed, `fit` would compile thrice.
        self.log_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))


def temperature_floor() -> optax.GradientTransformation:
    """A last step of stage 1's optimiser that keeps the temperature at 0.01 or above.

    The parameter is held there after each update, as CLIP does: a ceiling inside the loss would
    have no gradient beyond it, and the temperature could not come back.
    """

    def limit(path, update, value):
        named = any(getattr(part, "key", None) == "log_scale" for part in path)
        return jnp.minimum(update, jnp.log(100.0) - value) if named else update

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(limit, updates, params)
    )


def stage1_loss(
    stage: Stage1,
    batch: dict,
    *,
    drop_ratio: float,
    loss_chunk: int = 0,
    dtype=jnp.float32,
    key: Array,
    step: Int[Array, ""] | int = 0,
):
    """InfoNCE of one batch {video uint8 (B,T,H,W,3), ids (B,L), keep (B,L)}, and numbers to log.

    A share `drop_ratio` of the places is dropped, the same in every frame (tube token dropping;
    0.5 in the paper). Images are videos of one frame: their time table is cropped rather than
    interpolated, and they keep all their places (our choice: no other frame could show what is
    dropped). `loss_chunk` is the chunk of `contrastive`. Nothing depends on `step`, which `fit`
    gives every loss.
    """
    video = batch["video"]
    encoder = stage.model.vision_encoder
    tokens = (video.shape[2] // encoder.patch) * (video.shape[3] // encoder.patch)
    image = video.shape[1] == 1
    visible = None
    if drop_ratio and not image:
        visible = random_visible(key, len(video), tokens, visible_count(tokens, drop_ratio))
    v = stage.model.encode_video(pixels(video, dtype), visible=visible, crop=image)
    t = stage.model.encode_text(batch["ids"], batch["keep"])
    scale = jnp.exp(stage.log_scale[...])
    loss = contrastive(v, t, scale, chunk=loss_chunk)
    hits = ((v @ t.T).argmax(1) == jnp.arange(len(v))).mean()
    return loss, {"batch_r1": hits, "temperature": 1 / scale}


class LocalDecoder(nnx.Module):
    """Predicts every teacher token, or every patch of `pixels`, from the visible tokens.

    Mask token, shuffle and positions live at encoder width, before the projector (the paper's
    Table 11); positions are learnable, factorised over space and time (our choice).
    """

    def __init__(self, sizes: Sizes, teacher: Sizes, *, pixels: bool = False, rngs: nnx.Rngs):
        encoder, decoder = sizes.width, sizes.decoder
        places, frames = sizes.places, sizes.frames
        self.mask_token = nnx.Param(lecun(rngs.params(), (encoder,), encoder))
        self.spatial_pos_emb = nnx.Param(lecun(rngs.params(), (places, encoder), places))
        self.temporal_pos_emb = nnx.Param(lecun(rngs.params(), (frames, encoder), frames))
        self.projector = Dense(encoder, decoder.width, rngs=rngs)
        self.stack = Transformer(
            decoder.layers, decoder.width, decoder.heads, decoder.mlp, cap=None, rngs=rngs
        )
        outputs = 3 * sizes.patch**2 if pixels else teacher.width
        self.output = Dense(decoder.width, outputs, rngs=rngs)

    def __call__(
        self,
        seen: Float[Array, "B V D"],
        visible: Int[Array, "B T N"],
        *,
        share: float | Float[Array, ""],
        visible_only: bool = False,
        key: Array,
    ) -> Float[Array, "B S E"]:
        """Algorithm 1: repeat the mask token, concatenate, shuffle, add positions in raster order,
        decode.

        Positions mark output slots, not where a token came from: the decoder must place visible
        tokens by content. `share` of the slots exchange their tokens (see `shuffle_orders`): 1 in
        the paper, 0 as in an ordinary masked autoencoder, where every token is at its own place.
        With `visible_only` there is nothing to repeat or to shuffle: S counts the visible tokens,
        each at its own place.
        """
        b, v, d = seen.shape
        frames, tokens = self.temporal_pos_emb.shape[0], self.spatial_pos_emb.shape[0]
        s = frames * tokens
        positions = self.temporal_pos_emb[...][:, None] + self.spatial_pos_emb[...]  # T N D
        positions = positions.reshape(s, d).astype(seen.dtype)
        if visible_only:
            x = seen + positions[in_raster(visible, tokens)]
        else:
            fill = jnp.broadcast_to(self.mask_token[...].astype(seen.dtype), (b, s - v, d))
            x = jnp.concatenate([seen, fill], axis=1)  # B S D
            order, inverse = shuffle_orders(key, visible, s, share)
            x = permute(x, order, inverse) + positions
        return self.output(self.stack(self.projector(x)))


def in_raster(visible: Int[Array, "B T V"], places: int) -> Int[Array, "B T*V"]:
    """Numbers of visible tokens among all of a clip of `places` tokens a frame, in order."""
    frame = places * jnp.arange(visible.shape[1])[:, None]
    return (visible + frame).reshape(len(visible), -1)


class GlobalDecoder(nnx.Module):
    """Predicts the teacher's global embedding from visible tokens: no shuffle, no positions."""

    def __init__(self, sizes: Sizes, teacher: Sizes, *, rngs: nnx.Rngs):
        decoder = sizes.decoder
        self.projector = Dense(sizes.width, decoder.width, rngs=rngs)
        self.stack = Transformer(
            decoder.layers, decoder.width, decoder.heads, decoder.mlp, cap=None, rngs=rngs
        )
        self.output = Dense(decoder.width, teacher.width, rngs=rngs)
        self.pool = AttentionPool(teacher.width, teacher.heads, rngs=rngs)

    def __call__(self, seen: Float[Array, "B V D"]) -> Float[Array, "B E"]:
        return self.pool(self.output(self.stack(self.projector(seen))))


class Stage2(nnx.Module):
    """The student, an encoder of `sizes`, with the decoders it trains with; one whose loss is off
    is not built."""

    def __init__(
        self,
        encoder: VideoEncoder,
        sizes: Sizes,
        *,
        teacher: Sizes,
        local_loss: bool,
        global_loss: bool,
        pixels: bool = False,
        rngs: nnx.Rngs,
    ):
        self.encoder = encoder
        if local_loss:
            self.local_decoder = LocalDecoder(sizes, teacher, pixels=pixels, rngs=rngs)
        if global_loss:
            self.global_decoder = GlobalDecoder(sizes, teacher, rngs=rngs)


def start(
    model: VideoText | VideoEncoder | VideoClassifier,
) -> tuple[VideoText | VideoEncoder, VideoEncoder]:
    """The teacher that `model` is, and the student's encoder, a copy of its own.

    Of a video-text model the teacher has all but the text tower; of others the encoder alone, which
    has no clip embedding: such a teacher allows the token loss only.
    """
    if not isinstance(model, VideoText):
        encoder = getattr(model, "encoder", model)
        return encoder, nnx.clone(encoder)
    teacher = nnx.clone(model)
    del teacher.text_encoder
    return teacher, nnx.clone(model.vision_encoder)


# Of predicted tokens or patches from what `stage2.targets` names.
DISTANCES = {"tokens": cosine_distance, "pixels": squared_error}


def instance_normalise(tokens: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Each channel of each clip to mean 0 and deviation 1 over the clip's tokens: what all of them
    share is gone.

    Source: targets of data2vec (arXiv:2202.03555). The paper's targets are the tokens as they are.
    """
    x = tokens.astype(jnp.float32)
    x = x - x.mean(1, keepdims=True)
    return (x / (x.std(1, keepdims=True) + 1e-3)).astype(tokens.dtype)


def teacher_tokens(
    teacher: VideoText | VideoEncoder,
    video: Float[Array, "B T H W 3"],
    *,
    frames_alone: bool = False,
) -> Float[Array, "B S E"]:
    """Tokens of a frozen teacher that sees the whole clip, or with `frames_alone` each frame as an
    image of its own, as stage 1 sees images: such tokens know nothing of motion.
    """
    encoder = getattr(teacher, "vision_encoder", teacher)
    return jax.lax.stop_gradient(by_images(encoder, video) if frames_alone else encoder(video))


def distil(
    stage: Stage2,
    batch: dict,
    teacher: VideoText | VideoEncoder,
    *,
    mask: str,
    mask_ratio: float,
    shuffle_tokens: bool,
    shuffle_warmup: int = 0,
    masked_only: bool,
    normalise_targets: bool,
    targets: str = "tokens",
    visible_only: bool = False,
    image_teacher: bool = False,
    dtype=jnp.float32,
    key: Array,
    step: Int[Array, ""] | int,
) -> tuple[Float[Array, ""], dict[str, Array], dict[str, Array]]:
    """Token-wise plus global cosine distance to a frozen teacher that sees the whole clip; equal
    weights; in [0, 4] where targets are tokens.

    The student encodes visible tokens only. The local loss covers all tokens, visible and masked,
    in raster order (`masked_only` restricts it to masked ones, `visible_only` to visible ones:
    ablations). With `normalise_targets` it asks for what tells a clip's tokens apart and leaves
    what they share to the global loss (our choice, for small runs: LOG.md). The share of slots that `shuffle_tokens`
    shuffles grows from 0 to 1 over the first `shuffle_warmup` steps: a small run that started with
    the whole jigsaw had not begun to solve it after 2,000 steps (our choice, 0 in the paper).
    Two more ablations: `targets` "pixels" asks for `normalised_patches` by mean squared error, and
    an `image_teacher` sees `frames_alone`.
    Which terms exist is fixed by the decoders of `stage`: the global one needs a teacher with a
    pooler (see `start`).

    Returns the loss, numbers to log, and what they compare: the places the student saw, `visible`
    (B, T, V), its tokens there, `seen` (B, T*V, D), and as far as there are decoders `local` and
    `local_target` (B, S, E), `masked` (B, S; 1 where the student saw nothing), `global` and
    `global_target` (B, E).
    """
    video = pixels(batch["video"], dtype)
    b, t = video.shape[:2]
    tokens = None
    if targets == "tokens" or hasattr(stage, "global_decoder"):
        tokens = teacher_tokens(teacher, video, frames_alone=image_teacher)  # B S E
    k_mask, k_shuffle = jax.random.split(key)
    grid = stage.encoder.grid
    drawn = draw_mask(mask, mask_ratio, k_mask, batch=b, frames=t, grid=grid)
    seen, visible = stage.encoder(video, visible=drawn), by_frame(drawn, t)
    loss, numbers, compared = jnp.zeros(()), {}, {"visible": visible, "seen": seen}
    if hasattr(stage, "local_decoder"):
        if targets == "pixels":
            target = normalised_patches(video, stage.encoder.patch)
        else:
            target = instance_normalise(tokens) if normalise_targets else tokens
        share = float(shuffle_tokens)
        if shuffle_tokens and shuffle_warmup:
            share = jnp.minimum(step / shuffle_warmup, 1.0)
        predicted = stage.local_decoder(
            seen, visible, share=share, visible_only=visible_only, key=k_shuffle
        )
        if visible_only:
            own = in_raster(visible, grid * grid)[..., None]
            target, masked = jnp.take_along_axis(target, own, axis=1), jnp.zeros(own.shape[:2])
        else:
            masked = 1 - jax.nn.one_hot(visible, grid * grid).sum(2).reshape(b, -1)  # B S
        distance = DISTANCES[targets](predicted, target)  # B S
        numbers["local"] = local = distance.mean()
        if not visible_only:
            numbers["local_masked"] = over_masked = (distance * masked).sum() / masked.sum()
            local = over_masked if masked_only else local
        loss = loss + local
        compared |= {"local": predicted, "local_target": target, "masked": masked}
    if hasattr(stage, "global_decoder"):
        target = jax.lax.stop_gradient(teacher.pool(tokens))  # B E
        predicted = stage.global_decoder(seen)
        whole = cosine_distance(predicted, target).mean()
        loss, numbers = loss + whole, numbers | {"global": whole}
        compared |= {"global": predicted, "global_target": target}
    return loss, numbers, compared


def stage2_loss(stage: Stage2, batch: dict, teacher: VideoText | VideoEncoder, **settings):
    """The loss of `distil`, and its numbers to log."""
    return distil(stage, batch, teacher, **settings)[:2]


# --- a teacher that follows the student ----------------------------------------------------------


class Followed(nnx.Module):
    """Stage 2 and a teacher whose encoder follows the student's, as parameters of one module (see
    `follow`): an ablation, the paper's teacher stays as it is."""

    def __init__(self, stage: Stage2, teacher: VideoText | VideoEncoder):
        self.stage, self.teacher = stage, teacher


def followed_loss(both: Followed, batch: dict, **settings):
    """`stage2_loss` by the teacher as it is now, which has no gradient."""
    return stage2_loss(both.stage, batch, both.teacher, **settings)


def follow(momentum: float) -> optax.GradientTransformation:
    """A last step of the optimiser of `Followed`: after each update the teacher's encoder is `momentum`
    times what it was plus `1 - momentum` times the student's. All else of the teacher, such as its
    pooler, stays.

    Source: the targets of JEPA (arXiv:2301.08243).
    """

    def moved(updates, params):
        found, tree = jax.tree_util.tree_flatten_with_path(params)
        names = [tuple(getattr(part, "key", None) for part in path) for path, _ in found]
        values, steps = [value for _, value in found], jax.tree.leaves(updates)
        after = {n: value + step for n, value, step in zip(names, values, steps, strict=True)}
        for place, (name, value) in enumerate(zip(names, values, strict=True)):
            if name[0] == "teacher":
                within = name[2:] if name[1] == "vision_encoder" else name[1:]
                student = after.get(("stage", "encoder", *within), value)
                steps[place] = (1 - momentum) * (student - value)
        return jax.tree.unflatten(tree, steps)

    return optax.stateless(moved)

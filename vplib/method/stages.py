"""The method on two pages: stage 1 (video-text contrastive) and stage 2 (masked distillation with token shuffling).

Source: VideoPrism (arXiv:2402.13217) section 2.3, Algorithm 1 and Table 11. What the paper leaves open is marked
"our choice".
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vplib.method.losses import contrastive, cosine_distance
from vplib.method.masking import (
    MASKS,
    partly_shuffled_orders,
    random_visible,
    raster_orders,
    shuffle_orders,
    visible_count,
)
from vplib.model.encoders import Transformer, VideoEncoder, VideoText, pixels
from vplib.model.layers import AttentionPool, Dense, lecun, permute


class Stage1(nnx.Module):
    """The video-text model and its temperature (learnable, as a log of its inverse, starting at 0.07 as in CoCa: our choice)."""

    def __init__(self, model: VideoText):
        self.model = model
        self.log_scale = nnx.Param(
            jnp.log(jnp.float32(1 / 0.07))
        )  # not a bare float: weakly typed, `fit` would compile thrice


def stage1_loss(
    stage: Stage1,
    batch: dict,
    *,
    drop: float,
    dtype=jnp.float32,
    chunk: int = 0,
    key: Array,
    step: Int[Array, ""] | int = 0,
):
    """InfoNCE of one batch {video uint8 (B,T,H,W,3), ids (B,L), keep (B,L)}, and numbers to log.

    A share `drop` of the places is dropped, the same in every frame (tube token dropping; 0.5 in the paper). Images
    are videos of one frame: their time table is cropped rather than interpolated, and they keep all their places (our
    choice: no other frame could show what is dropped). Nothing depends on `step`, which `fit` gives every loss.
    """
    video = batch["video"]
    encoder = stage.model.vision_encoder
    tokens = (video.shape[2] // encoder.patch) * (video.shape[3] // encoder.patch)
    image = video.shape[1] == 1
    visible = (
        random_visible(key, video.shape[0], tokens, visible_count(tokens, drop))
        if drop and not image
        else None
    )
    v = stage.model.encode_video(pixels(video, dtype), visible=visible, crop=image)
    t = stage.model.encode_text(batch["ids"], batch["keep"])
    scale = jnp.exp(
        jnp.minimum(stage.log_scale[...], jnp.log(100.0))
    )  # CLIP's ceiling: keeps float32 logits tame
    loss = contrastive(v, t, scale, chunk=chunk)
    hits = ((v @ t.T).argmax(1) == jnp.arange(len(v))).mean()
    return loss, {"batch_r1": hits, "temperature": 1 / scale}


class LocalDecoder(nnx.Module):
    """Predicts every teacher token from the visible tokens.

    Mask token, shuffle and positions live at encoder width, before the projector (the paper's Table 11); positions
    are learnable, factorised over space and time (our choice).
    """

    def __init__(
        self,
        *,
        encoder: int,
        teacher: int,
        frames: int,
        tokens: int,
        width: int,
        layers: int,
        heads: int,
        mlp: int,
        kernel: str = "plain",
        rngs: nnx.Rngs,
    ):
        self.mask_token = nnx.Param(lecun(rngs.params(), (encoder,), encoder))
        self.spatial_pos_emb = nnx.Param(lecun(rngs.params(), (tokens, encoder), tokens))
        self.temporal_pos_emb = nnx.Param(lecun(rngs.params(), (frames, encoder), frames))
        self.projector = Dense(encoder, width, rngs=rngs)
        self.stack = Transformer(layers, width, heads, mlp, cap=None, kernel=kernel, rngs=rngs)
        self.output = Dense(width, teacher, rngs=rngs)

    def __call__(
        self,
        seen: Float[Array, "B V D"],
        visible: Array,
        *,
        shuffle: bool | float | Float[Array, ""],
        key: Array,
    ) -> Float[Array, "B S E"]:
        """Algorithm 1: repeat the mask token, concatenate, shuffle, add positions in raster order, decode.

        Positions mark output slots, not where a token came from: the decoder must place visible tokens by content.
        Without `shuffle` tokens return to their own places first, as in an ordinary masked autoencoder; a number in
        [0, 1] is the share of slots that are shuffled, and the rest is in place.
        """
        b, v, d = seen.shape
        frames, tokens = self.temporal_pos_emb.shape[0], self.spatial_pos_emb.shape[0]
        s = frames * tokens
        fill = jnp.broadcast_to(self.mask_token[...].astype(seen.dtype), (b, s - v, d))
        x = jnp.concatenate([seen, fill], axis=1)  # B S D
        if isinstance(shuffle, bool):
            order, inverse = shuffle_orders(key, b, s) if shuffle else raster_orders(visible, s)
        else:
            order, inverse = partly_shuffled_orders(key, visible, s, shuffle)
        x = permute(x, order, inverse)
        positions = self.temporal_pos_emb[...][:, None] + self.spatial_pos_emb[...]  # T N D
        x = x + positions.reshape(s, d).astype(x.dtype)
        return self.output(self.stack(self.projector(x)))


class GlobalDecoder(nnx.Module):
    """Predicts the teacher's global embedding from visible tokens alone: no shuffle, no positions."""

    def __init__(
        self,
        *,
        encoder: int,
        teacher: int,
        width: int,
        layers: int,
        heads: int,
        mlp: int,
        pool_heads: int,
        kernel: str = "plain",
        rngs: nnx.Rngs,
    ):
        self.projector = Dense(encoder, width, rngs=rngs)
        self.stack = Transformer(layers, width, heads, mlp, cap=None, kernel=kernel, rngs=rngs)
        self.output = Dense(width, teacher, rngs=rngs)
        self.pool = AttentionPool(teacher, pool_heads, rngs=rngs)

    def __call__(self, seen: Float[Array, "B V D"]) -> Float[Array, "B E"]:
        return self.pool(self.output(self.stack(self.projector(seen))))


class Stage2(nnx.Module):
    """The student encoder with the decoders it trains with; a decoder whose loss is off is not built."""

    def __init__(
        self,
        encoder: VideoEncoder,
        *,
        teacher_width: int,
        teacher_heads: int,
        decoder: dict,
        local_loss: bool,
        global_loss: bool,
        rngs: nnx.Rngs,
    ):
        self.encoder = encoder
        width, frames = (
            encoder.temporal_ln.scale.shape[0],
            encoder.temporal_pos_emb.emb_var.shape[0],
        )
        sizes = dict(encoder=width, teacher=teacher_width, kernel=encoder.kernel, **decoder)
        if local_loss:
            self.local_decoder = LocalDecoder(
                frames=frames, tokens=encoder.grid**2, **sizes, rngs=rngs
            )
        if global_loss:
            self.global_decoder = GlobalDecoder(pool_heads=teacher_heads, **sizes, rngs=rngs)


def instance_normalise(tokens: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Each channel of each clip to mean 0 and deviation 1 over the clip's tokens: what all of them share is gone.

    Source: targets of data2vec (arXiv:2202.03555). The paper's targets are the tokens as they are.
    """
    x = tokens.astype(jnp.float32)
    x = x - x.mean(1, keepdims=True)
    return (x / (x.std(1, keepdims=True) + 1e-3)).astype(tokens.dtype)


def stage2_loss(
    stage: Stage2,
    batch: dict,
    teacher: VideoText,
    *,
    mask: str,
    ratio: float,
    shuffle: bool,
    masked_only: bool,
    normalise_targets: bool,
    shuffle_warmup: int = 0,
    dtype=jnp.float32,
    key: Array,
    step: Int[Array, ""] | int,
):
    """Token-wise plus global cosine distance to a frozen teacher that sees the whole clip; equal weights; in [0, 4].

    The student encodes visible tokens only. The local loss covers all tokens, visible and masked, in raster order
    (`masked_only` restricts it to masked ones: an ablation). With `normalise_targets` it asks for what tells a clip's
    tokens apart and leaves what they share to the global loss (our choice, for small runs: LOG.md). The share of tokens
    that `shuffle` moves grows from 0 to 1 over the first `shuffle_warmup` steps: a small run that started with the whole
    jigsaw had not begun to solve it after 2,000 steps (our choice, 0 in the paper). Which terms exist is fixed by the
    decoders of `stage`.
    """
    video = pixels(batch["video"], dtype)
    b, t = video.shape[:2]
    n = stage.encoder.grid**2
    tokens = jax.lax.stop_gradient(teacher.vision_encoder(video))  # B S E
    k_mask, k_shuffle = jax.random.split(key)
    visible = MASKS[mask](k_mask, b, t, stage.encoder.grid, visible_count(n, ratio))  # B T V
    seen = stage.encoder(video, visible=visible)
    loss, numbers = jnp.zeros(()), {}
    if hasattr(stage, "local_decoder"):
        local_target = instance_normalise(tokens) if normalise_targets else tokens
        if shuffle and shuffle_warmup:
            shuffle = jnp.minimum(step / shuffle_warmup, 1.0)
        distance = cosine_distance(
            stage.local_decoder(seen, visible, shuffle=shuffle, key=k_shuffle), local_target
        )  # B S
        hidden = 1 - jax.nn.one_hot(visible, n).sum(2).reshape(b, -1)  # B S
        masked = (distance * hidden).sum() / hidden.sum()
        local = masked if masked_only else distance.mean()
        loss, numbers = loss + local, numbers | {"local": local, "local_masked": masked}
    if hasattr(stage, "global_decoder"):
        target = jax.lax.stop_gradient(teacher.pool(tokens))  # B E
        whole = cosine_distance(stage.global_decoder(seen), target).mean()
        loss, numbers = loss + whole, numbers | {"global": whole}
    return loss, numbers

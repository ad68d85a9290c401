"""The factorised video encoder, the text encoder and the video-text model, as released; and joint
attention over space and time, an ablation.

Source: google-deepmind/videoprism, videoprism/encoders.py and models.py; VideoPrism
(arXiv:2402.13217) section 2.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from vplib.model.adapters import Adapters, put_in
from vplib.model.attention import Attention, affine
from vplib.model.layers import AttentionPool, Dense, LayerNorm, Stack, lecun, one_hot_rows, permute
from vplib.model.sizes import Sizes


def patchify(video: Float[Array, "B T H W C"], patch: int) -> Float[Array, "B T N P"]:
    """Non-overlapping square patches in row-major order, each flattened as (row, column, channel).

    Raises ValueError for other axes than these and when height or width is not a multiple of
    `patch`.
    """
    if video.ndim != 5 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(
            f"a video of shape {video.shape} is none of axes (clips, frames, height, width, "
            "3 colours): move, add or repeat axes until it is"
        )
    b, t, h, w, c = video.shape
    if h % patch or w % patch:
        height, width = (max(side // patch, 1) * patch for side in (h, w))
        raise ValueError(
            f"video frames of {h}x{w} pixels do not divide into {patch}-pixel patches: "
            f"resize to multiples of {patch}, for example {height}x{width}"
        )
    x = video.reshape(b, t, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(
        b, t, (h // patch) * (w // patch), patch * patch * c
    )


class Embedding(nnx.Module):
    """A table of vectors under the released name `emb_var`."""

    def __init__(self, rows: int, width: int, *, fan_in: int, rngs: nnx.Rngs):
        self.emb_var = nnx.Param(lecun(rngs.params(), (rows, width), fan_in))


class Transformer(nnx.Module):
    """A stack under the released name `transformers_stack`."""

    def __init__(self, *args, **kwargs):
        self.transformers_stack = Stack(*args, **kwargs)

    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        keep: Array | None = None,
        *,
        windowed: bool = False,
    ) -> Array:
        return self.transformers_stack(x, mask, keep, windowed=windowed)


def _padding(keep: Bool[Array, "*A N"] | None) -> tuple[Array | None, Array | None]:
    """The attention mask in which only kept tokens are keys, and `keep` itself, for the MLPs."""
    return (None, None) if keep is None else (keep[..., None, None, :], keep)


def by_frame(visible: Int[Array, "B *R V"], frames: int) -> Int[Array, "B T V"]:
    """The visible places of each frame; those of a tube (B, V) are the same in all frames."""
    if visible.ndim == 3:
        return visible
    return jnp.broadcast_to(visible[:, None], (len(visible), frames, visible.shape[-1]))


class VideoEncoder(nnx.Module):
    """ViViT-style factorised encoder: spatial stack in each frame, LayerNorm, temporal stack at
    each place, LayerNorm.

    All T x N tokens are kept, time-major. Other resolutions and frame counts than those of `sizes`
    interpolate the tables of positions bilinearly.

    With `sizes.joint` as many blocks form one stack, `joint_encoder`, in which every token sees all
    tokens of the clip, and both positions are added before it. The LayerNorm behind it keeps the
    name `temporal_ln`; the one between the stacks is gone, so there are 2 D parameters less. Source:
    VideoPrism table 24, which says no more; ViViT (arXiv:2103.15691), its model 1.
    """

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs):
        width, places, frames = sizes.width, sizes.places, sizes.frames
        self.patch_projection = Dense(sizes.patch**2 * 3, width, rngs=rngs)
        # Start as if pixels were standardised (mean 0.5, deviation 0.25): the released graph takes
        # [0, 1], whose common mean would drown the differences between patches for the first
        # thousands of steps. The graph is unchanged.
        linear = self.patch_projection.linear
        linear.kernel[...] *= 4
        linear.bias[...] = -0.5 * linear.kernel[...].sum(0)
        self.spatial_pos_emb = Embedding(places, width, fan_in=places, rngs=rngs)
        block = (width, sizes.heads, sizes.mlp)
        if sizes.joint:
            self.joint_encoder = Transformer(sizes.layers, *block, rngs=rngs)
        else:
            self.spatial_encoder = Transformer(sizes.spatial_layers, *block, rngs=rngs)
            self.spatial_ln = LayerNorm(width)
        self.temporal_pos_emb = Embedding(frames, width, fan_in=frames, rngs=rngs)
        if not sizes.joint:
            self.temporal_encoder = Transformer(sizes.temporal_layers, *block, rngs=rngs)
        self.temporal_ln = LayerNorm(width)
        self.patch, self.grid = sizes.patch, sizes.grid
        if sizes.adapter:
            put_in(self, Adapters(sizes, rngs=rngs))

    @property
    def stacks(self) -> list[tuple[Stack, LayerNorm]]:
        """The stacks in order, each with the LayerNorm behind it: space and time, or the joint one."""
        if hasattr(self, "joint_encoder"):
            return [(self.joint_encoder.transformers_stack, self.temporal_ln)]
        space, time = self.spatial_encoder, self.temporal_encoder
        return [
            (space.transformers_stack, self.spatial_ln),
            (time.transformers_stack, self.temporal_ln),
        ]

    def positions(
        self, frames: int, rows: int, columns: int, *, crop: bool = False
    ) -> tuple[Float[Array, "N D"], Float[Array, "T D"]]:
        """Space and time tables at the asked shape; `crop` takes the first `frames` time entries
        instead of resizing.

        Cropping is what the paper does for images in training (one-frame videos); interpolation is
        the released code's.
        """
        space, time = self.spatial_pos_emb.emb_var[...], self.temporal_pos_emb.emb_var[...]
        if (rows, columns) != (self.grid, self.grid):
            square = space.reshape(self.grid, self.grid, -1)
            space = jax.image.resize(square, (rows, columns, space.shape[1]), "bilinear").reshape(
                rows * columns, -1
            )
        if crop:
            time = time[:frames]
        elif frames != time.shape[0]:
            time = jax.image.resize(time, (frames, time.shape[1]), "bilinear")
        return space, time

    def __call__(
        self,
        video: Float[Array, "B T H W 3"],
        *,
        visible: Int[Array, "B *R V"] | None = None,
        paddings: Float[Array, "B T"] | None = None,
        crop: bool = False,
        features: bool = False,
    ):
        """Tokens (B, S, D) of `video` in [0, 1]; with `visible`, only those tokens enter the
        encoder.

        `visible` (B, V): the same places in every frame (a tube), S = T*V. `visible` (B, T, V): V
        places of each frame, S = T*V; places that a frame lacks are simply absent from the
        temporal attention. `paddings` (B, T): 1 marks frames no other frame may attend to.
        `features` also returns a dictionary, as released, of the spatial stack's output:
        `spatial_features`, of the shape of the tokens; where attention is joint, an empty one.

        Raises ValueError for other axes and for frames that do not divide into patches.
        """
        x = patchify(video, self.patch)  # B T N P
        b, t, n, _ = x.shape
        rows, columns = video.shape[2] // self.patch, video.shape[3] // self.patch
        space, time = self.positions(t, rows, columns, crop=crop)
        if visible is None:
            place, x = None, self.patch_projection(x) + space.astype(x.dtype)
        else:
            # Raw pixels are picked, which need no gradient: the backward pass is spared, too. The
            # positions of their places come with the same product, as further rows of its matrix.
            place = by_frame(visible, t)
            x = jnp.take_along_axis(x, place[..., None], axis=2)  # B T V P
            own = jax.nn.one_hot(place, n, dtype=x.dtype)
            linear = self.patch_projection.linear
            rows = jnp.concatenate([linear.kernel[...], space])
            x = affine(jnp.concatenate([x, own], axis=-1), rows, linear.bias[...])
        keep = None if paddings is None else (paddings == 0)[:, :, None]  # B T 1
        if hasattr(self, "joint_encoder"):
            x = (x + time[:, None].astype(x.dtype)).reshape(b, -1, x.shape[-1])  # B S D
            if keep is not None:  # a padded frame's tokens are no keys
                keep = jnp.repeat(keep[..., 0], x.shape[1] // t, axis=1)  # B S
            x = self.temporal_ln(self.joint_encoder(x, *_padding(keep)))
            return (x, {}) if features else x
        # All tokens of a padded frame are padding: uniform attention.
        x = self.spatial_encoder(x, *_padding(keep))
        x = self.spatial_ln(x)
        spatial = x.reshape(b, -1, x.shape[-1])

        if visible is not None and visible.ndim == 3:
            x = x + time[None, :, None].astype(x.dtype)  # B T V D
            x = self._by_place(x, place, None if keep is None else keep[..., 0])
        else:
            x = x.swapaxes(1, 2) + time.astype(x.dtype)  # B N T D
            x = self.temporal_encoder(x, *_padding(None if keep is None else keep.swapaxes(1, 2)))
            x = x.swapaxes(1, 2).reshape(b, -1, x.shape[-1])  # B S D
        x = self.temporal_ln(x)
        return (x, {"spatial_features": spatial}) if features else x

    def _by_place(
        self,
        x: Float[Array, "B T V D"],
        place: Int[Array, "B T V"],
        keep: Bool[Array, "B T"] | None,
    ) -> Float[Array, "B S D"]:
        """The temporal stack on ragged tokens: each sees the tokens of its own place.

        Sorted by place, those of one place are at most T neighbours, and in windows of T they lie
        in a token's own window and the two beside it. So attention costs 3T keys a token, not T*V.
        """
        b, t, v, d = x.shape
        flat = place.reshape(b, t * v)
        order = jnp.argsort(flat, axis=-1, stable=True)  # by place, then by frame
        inverse = jnp.argsort(order, axis=-1)
        query = jnp.take_along_axis(flat, order, axis=-1)
        key = query
        if keep is not None:  # a padded frame is no key
            keep = jnp.take_along_axis(jnp.repeat(keep, v, axis=1), order, axis=-1)
            key, keep = jnp.where(keep, query, -1), keep.reshape(b, v, t)
        key = jnp.pad(key.reshape(b, v, t), ((0, 0), (1, 1), (0, 0)), constant_values=-1)
        key = jnp.concatenate([key[:, :-2], key[:, 1:-1], key[:, 2:]], axis=-1)  # B V 3T
        mask = query.reshape(b, v, t)[..., None] == key[:, :, None]  # B V T 3T
        x = permute(x.reshape(b, t * v, d), order, inverse).reshape(b, v, t, d)
        x = self.temporal_encoder(x, mask[:, :, None], keep, windowed=True)
        return permute(x.reshape(b, t * v, d), inverse, order)


def by_images(encoder: VideoEncoder, video: Float[Array, "B T H W 3"]) -> Float[Array, "B S D"]:
    """Tokens of each frame as an image of its own, as stage 1 sees images; all frames of a clip one
    after the other. They know nothing of motion."""
    b, t, *frame = video.shape
    tokens = encoder(video.reshape(b * t, 1, *frame), crop=True)
    return tokens.reshape(b, -1, tokens.shape[-1])


def sinusoids(length: int, width: int) -> Float[Array, "L D"]:
    """Fixed positions: sines then cosines at timescales from 1 to 10,000."""
    rates = jnp.exp(-jnp.arange(width // 2) * (jnp.log(10_000.0) / max(width // 2 - 1, 1)))
    angles = jnp.arange(length)[:, None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class TextEncoder(nnx.Module):
    """CoCa-style unimodal text transformer: causal, ReLU, a learnable class token last whose
    output is the embedding."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs):
        width = sizes.width
        self.token_emb = Embedding(sizes.vocabulary, width, fan_in=width, rngs=rngs)
        self.cls_emb = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)) * width**-0.5)
        self.unimodal_transformer = Stack(
            sizes.text_layers,
            width,
            sizes.heads,
            4 * width,
            activation=jax.nn.relu,
            norm=sizes.text_norm,
            rngs=rngs,
        )
        self.unimodal_ln = LayerNorm(width)

    def __call__(self, ids: Int[Array, "B L"], keep: Bool[Array, "B L"]) -> Float[Array, "B D"]:
        """Embedding of token ids; `keep` is False at padding. The class token sits after the
        padding, as released."""
        return self.words(ids, keep)[:, -1]

    def words(self, ids: Int[Array, "B L"], keep: Bool[Array, "B L"]) -> Float[Array, "B M D"]:
        """What is known of each token and those before it, M = L + 1: the embedding is the last."""
        table = self.token_emb.emb_var[...]
        b, l = ids.shape
        small = table.shape[0] <= 4096  # of a big table, a gather is cheaper
        x = one_hot_rows(table, ids) if small else table[ids]
        x = x * table.shape[1] ** 0.5 + sinusoids(l, table.shape[1])
        cls = jnp.broadcast_to(self.cls_emb[...] * table.shape[1] ** 0.5, (b, 1, table.shape[1]))
        x = jnp.concatenate([x, cls], axis=1)  # B L+1 D
        keep = jnp.concatenate([keep, jnp.ones((b, 1), bool)], axis=1)
        mask = jnp.tril(jnp.ones((l + 1, l + 1), bool)) & keep[:, None, None, :]  # B 1 L+1 L+1
        return self.unimodal_ln(self.unimodal_transformer(x, mask))


def normalise(x: Float[Array, "*A E"]) -> Float[Array, "*A E"]:
    """x / ||x||, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


class VideoText(nnx.Module):
    """Video encoder, optional auxiliary layers, attention pooler and text encoder; unit-length
    embeddings, no projections."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs):
        width, heads = sizes.width, sizes.heads
        self.vision_encoder = VideoEncoder(sizes, rngs=rngs)
        if sizes.aux_layers:
            self.auxiliary_encoder = Transformer(
                sizes.aux_layers, width, heads, sizes.mlp, rngs=rngs
            )
        self.contrastive_vision_pooler = AttentionPool(
            width, heads, inner=sizes.pooler_inner, rngs=rngs
        )
        self.text_encoder = TextEncoder(sizes, rngs=rngs)

    def attend(self, tokens: Float[Array, "*A S D"]) -> Float[Array, "*A S D"]:
        """The auxiliary layers, where the model has any."""
        return self.auxiliary_encoder(tokens) if hasattr(self, "auxiliary_encoder") else tokens

    def pool(self, tokens: Float[Array, "*A S D"]) -> Float[Array, "*A D"]:
        """Global embedding of a token sequence, not normalised."""
        return self.contrastive_vision_pooler(self.attend(tokens))

    def encode_video(self, video: Float[Array, "B T H W 3"], **kwargs) -> Float[Array, "B D"]:
        """Unit-length video embeddings; keyword arguments as `VideoEncoder`. Pooling ignores frame
        paddings, as released."""
        return normalise(self.pool(self.vision_encoder(video, **kwargs)))

    def encode_frames(self, video: Float[Array, "B T H W 3"], **kwargs) -> Float[Array, "B T D"]:
        """Unit-length embeddings of single frames; keyword arguments as `VideoEncoder`."""
        return self.features(video, **kwargs)["frame_embeddings"]

    def features(self, video: Float[Array, "B T H W 3"], **kwargs) -> dict[str, Array]:
        """Intermediate features under the released names: `spatial_features` and
        `spatiotemporal_features` (B S D) of the encoder, `frame_embeddings` (B T D): the auxiliary
        layers see the whole clip, the pooler one frame at a time.
        """
        tokens, features = self.vision_encoder(video, features=True, **kwargs)
        b, t = video.shape[:2]
        frames = self.attend(tokens).reshape(b, t, -1, tokens.shape[-1])
        return features | {
            "spatiotemporal_features": tokens,
            "frame_embeddings": normalise(self.contrastive_vision_pooler(frames)),
        }

    def encode_text(self, ids: Int[Array, "B L"], keep: Bool[Array, "B L"]) -> Float[Array, "B D"]:
        """Unit-length text embeddings."""
        return normalise(self.text_encoder(ids, keep))


class VideoClassifier(nnx.Module):
    """Video encoder, attention pooler of the model's width, linear layer; as released."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs):
        self.encoder = VideoEncoder(sizes, rngs=rngs)
        self.atten_pooler = AttentionPool(sizes.width, sizes.heads, rngs=rngs)
        self.projection = Dense(sizes.width, sizes.classes, rngs=rngs)

    def __call__(self, video: Float[Array, "B T H W 3"], **kwargs) -> Float[Array, "B K"]:
        """Logits; keyword arguments as `VideoEncoder`."""
        return self.projection(self.features(video, **kwargs)["global_embeddings"])

    def features(self, video: Float[Array, "B T H W 3"], **kwargs) -> dict[str, Array]:
        """Intermediate features under the released names: `spatial_features` and
        `spatiotemporal_features` (B S D) of the encoder, `global_embeddings` (B D) of the pooler.
        """
        tokens, features = self.encoder(video, features=True, **kwargs)
        return features | {
            "spatiotemporal_features": tokens,
            "global_embeddings": self.atten_pooler(tokens),
        }


def shapes(sizes: Sizes) -> VideoEncoder | VideoText | VideoClassifier:
    """A model of these sizes (as `checkpoints.infer` gives them) whose parameters are mere shapes."""
    kind = VideoText if sizes.vocabulary else VideoClassifier if sizes.classes else VideoEncoder
    return nnx.eval_shape(lambda: kind(sizes, rngs=nnx.Rngs(0)))


def configure(model: nnx.Module, *, kernel: str = "plain", remat: bool = False) -> None:
    """Set how every part of `model` computes, in place; results stay the same.

    `kernel` is that of `attention.attend`; `remat` recomputes each block in the backward pass (see
    `Stack`).
    """
    for _, module in nnx.iter_graph(model):
        if isinstance(module, Attention):
            module.kernel = kernel
        if isinstance(module, Stack):
            module.remat = remat


def pixels(video: UInt8[Array, "B T H W 3"], dtype=jnp.float32) -> Float[Array, "B T H W 3"]:
    """Bytes to [0, 1]: the released models take no mean or standard deviation."""
    return video.astype(dtype) / 255

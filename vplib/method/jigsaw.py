"""How a local decoder places visible tokens: what its slots attend to, and what they answer.

Shuffled, a decoder has to find out by content where a visible token belongs (the paper's jigsaw).
Not shuffled, every visible token lies in its own slot, and handing it on is an answer: the copy
shortcut that shuffling is said to close.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vplib.method.masking import shuffle_orders
from vplib.method.stages import LocalDecoder, Stage2, distil, in_raster
from vplib.model.encoders import VideoEncoder, VideoText, normalise
from vplib.model.layers import Stack, permute

SETTINGS = ("mask", "mask_ratio", "shuffle_tokens", "masked_only", "normalise_targets")


class Placing(NamedTuple):
    """Means over clips and their visible tokens: by layer of the decoder, the `attention` that the
    slot of a place pays to the token from there and how often it pays `most` to it; how often a
    slot's answer is nearest to the target of its own place (`placed`); the cosine distances over
    `visible` and `masked` tokens.
    """

    attention: Float[Array, " L"]
    most: Float[Array, " L"]
    placed: Float[Array, ""]
    visible: Float[Array, ""]
    masked: Float[Array, ""]


def placing(
    stage: Stage2,
    teacher: VideoText | VideoEncoder,
    video: UInt8[np.ndarray, "C T H W 3"],
    settings: Mapping,
    *,
    batch: int,
    key: Array,
) -> Placing:
    """What a trained stage does with these clips, of which whole batches are looked at; `settings`
    has at least SETTINGS of section `stage2`. Shuffles all slots or none: after a warm-up.

    Raises ValueError for fewer clips than a batch.
    """
    chosen, found = {name: settings[name] for name in SETTINGS}, []
    if len(video) < batch:
        raise ValueError(f"{len(video)} clips are less than a batch of {batch}")
    for start in range(0, len(video) - batch + 1, batch):
        clips = jnp.asarray(video[start : start + batch])
        found.append(_placing(stage, teacher, clips, jax.random.fold_in(key, start), **chosen))
    return jax.tree.map(lambda *parts: jnp.stack(parts).mean(0), *found)


@partial(jax.jit, static_argnames=SETTINGS)
def _placing(stage: Stage2, teacher, video, key: Array, **settings) -> Placing:
    """Of one batch."""
    _, numbers, compared = distil(stage, {"video": video}, teacher, **settings, key=key, step=0)
    seen, visible = compared["seen"], compared["visible"]
    attention, most = own_attention(
        stage.local_decoder,
        seen,
        visible,
        share=float(settings["shuffle_tokens"]),
        key=jax.random.split(key)[1],  # with which `distil` shuffled
    )
    where = placed(compared["local"], compared["local_target"], visible)
    hidden = compared["masked"].mean()
    rest = (numbers["local"] - hidden * numbers["local_masked"]) / (1 - hidden)
    return Placing(attention, most, where, rest, numbers["local_masked"])


def own_attention(
    decoder: LocalDecoder,
    seen: Float[Array, "B V D"],
    visible: Int[Array, "B T N"],
    *,
    share: float,
    key: Array,
) -> tuple[Float[Array, " L"], Float[Array, " L"]]:
    """Of the slots whose place is visible, by layer: the attention paid to the token from that
    place, wherever it lies, a mean over heads, in [0, 1]; and how often no token gets more.

    Arguments as those of `decoder`. Attention that looks at nothing pays 1 / S, S the slots.
    """
    b, v, d = seen.shape
    frames, places = decoder.temporal_pos_emb.shape[0], decoder.spatial_pos_emb.shape[0]
    order, inverse = shuffle_orders(key, visible, frames * places, share)
    fill = jnp.broadcast_to(decoder.mask_token[...], (b, frames * places - v, d))
    x = permute(jnp.concatenate([seen, fill], axis=1), order, inverse)
    positions = decoder.temporal_pos_emb[...][:, None] + decoder.spatial_pos_emb[...]
    x = decoder.projector(x + positions.reshape(-1, d))
    weights = attention(decoder.stack.transformers_stack, x).mean(2)  # L B S S
    slot, lies = in_raster(visible, places), inverse[:, :v]
    rows = jnp.take_along_axis(weights, slot[None, ..., None], axis=2)  # L B V S
    own = jnp.take_along_axis(rows, lies[None, ..., None], axis=3)
    return own.mean((1, 2, 3)), (rows.argmax(-1) == lies).mean((1, 2))


def attention(stack: Stack, x: Float[Array, "B N D"]) -> Float[Array, "L B K N N"]:
    """The softmax weights of every block of a stack, queries before keys: they add up to 1."""

    def step(x, block):
        own, y = block.self_attention, block.layer_norm(x)
        query, key = (
            jnp.einsum("bnd,dkh->bknh", y, part.w[...]) + part.b[...][:, None]
            for part in (own.query, own.key)
        )
        logits = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5
        if own.cap is not None:
            logits = own.cap * jnp.tanh(logits / own.cap)
        return block(x), jax.nn.softmax(logits, axis=-1)

    return jax.lax.scan(step, x, stack.x_layers, unroll=True)[1]


def placed(
    predicted: Float[Array, "B S E"], target: Float[Array, "B S E"], visible: Int[Array, "B T N"]
) -> Float[Array, ""]:
    """Of the visible places of a clip, how often what is predicted there is nearest, by cosine, to
    the target of that place among the targets of all of them; in [0, 1], by luck 1 / (T N).
    """
    places = target.shape[1] // visible.shape[1]
    own = in_raster(visible, places)[..., None]
    said, true = (normalise(jnp.take_along_axis(x, own, axis=1)) for x in (predicted, target))
    nearest = (said @ true.swapaxes(1, 2)).argmax(-1)
    return (nearest == jnp.arange(nearest.shape[1])).mean()

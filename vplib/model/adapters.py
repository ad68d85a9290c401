"""Bottleneck adapters: a few trained layers inside a frozen encoder.

Beside the MLP of every block: y = x + MLP(norm x) + scale * up(ReLU(down(norm x))). With `up` at
zero the network is the frozen one, bit for bit, until it is trained.
Source: VideoGLUE (arXiv:2307.03166) figure 5 and section 3.3, VideoPrism appendix E.2 (width 64, in
all blocks of both stacks). First values are unpublished: those of AdaptFormer (arXiv:2205.13535).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vplib.model.layers import Dense
from vplib.model.sizes import Sizes


class Adapter(nnx.Module):
    """Down to `inner`, ReLU, up again, times a learned scalar that begins at 0.1."""

    def __init__(self, width: int, inner: int, *, rngs: nnx.Rngs):
        self.down = Dense(width, inner, rngs=rngs)
        self.down.linear.kernel[...] *= 2**0.5  # He's deviation for ReLU
        self.up = Dense(inner, width, rngs=rngs)
        self.up.linear.kernel[...] *= 0
        self.scale = nnx.Param(jnp.float32(0.1))

    def __call__(self, x: Float[Array, "*A D"]) -> Float[Array, "*A D"]:
        y = self.up(jax.nn.relu(self.down(x)))
        return (self.scale[...] * y).astype(x.dtype)


class Adapters(nnx.Module):
    """Those of all stacks of an encoder of `sizes`, a block's on axis 0."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs):
        def stacked(layers: int) -> Adapter:
            keys = jax.random.split(rngs.params(), layers)
            return jax.vmap(lambda key: Adapter(sizes.width, sizes.adapter, rngs=nnx.Rngs(key)))(
                keys
            )

        if sizes.joint:
            self.joint = stacked(sizes.layers)
        else:
            self.spatial = stacked(sizes.spatial_layers)
            self.temporal = stacked(sizes.temporal_layers)


def put_in(encoder: nnx.Module, adapters: Adapters) -> None:
    """Let the blocks of a video encoder have these adapters, in place."""
    for part in ("joint",) if hasattr(adapters, "joint") else ("spatial", "temporal"):
        stack = getattr(encoder, f"{part}_encoder").transformers_stack
        stack.x_layers.ff_layer.adapter = getattr(adapters, part)


def join(encoder: nnx.Module, adapters: Adapters) -> nnx.Module:
    """The encoder with adapters in it; what was given stays as it is."""
    joined = nnx.clone(encoder)
    put_in(joined, adapters)
    return joined

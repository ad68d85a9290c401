"""Coupling a frozen video encoder to a frozen language model by one trained resampler.

The tokens of a clip become a few vectors that stand before the words of a prompt, and the language
model goes on from there. Source: VideoPrism (arXiv:2402.13217) section 4.3 and appendix G. What the
paper leaves open is marked "our choice".
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from vplib.method.losses import continuation
from vplib.model.attention import product
from vplib.model.resampler import Resampler


def speaking_loss(
    bridge: Resampler,
    batch: dict,
    lm: nnx.Module,
    *,
    dtype=jnp.float32,
    key: Array | None = None,
    step: Int[Array, ""] | int = 0,
):
    """Mean cross-entropy, in nats a token, of what is to be said after a clip and a prompt; and
    numbers to log.

    A batch is {tokens (B,S,E) of the frozen encoder, ids (B,L), keep (B,L), said (B,L)}: `ids` are
    a prompt and what follows it, an end token last; `said` marks the latter, and it alone counts.
    All its tokens count alike, however long a text is (our choice). Nothing depends on `key` and
    `step`, which `fit` gives every loss.
    """
    seen = bridge(batch["tokens"].astype(dtype))
    there = jnp.ones(seen.shape[:2], bool)
    return continuation(lm, seen, there, batch["ids"], batch["keep"], batch["said"]), {}


def reading_loss(
    lm: nnx.Module, batch: dict, *, key: Array | None = None, step: Int[Array, ""] | int = 0
):
    """The same of texts alone: what the language model learns before it is frozen.

    A batch is {told (B,T), bags (B,T,N), ids (B,L), keep (B,L), said (B,L)}, the last three as above.
    Where a clip's vectors will be stand those of its description: sums of the embedded words `told`
    of a bag each (`data.spoken.bags`). A text of which nothing was told begins with its own words, and
    the first, which has nothing before it to follow from, does not count. Our choice.
    """
    inside = jnp.swapaxes(batch["bags"], 1, 2)
    seen = product(inside.astype(jnp.float32), lm.embed(batch["told"]))
    return continuation(lm, seen, inside.any(-1), batch["ids"], batch["keep"], batch["said"]), {}

"""The losses of both stages, pure functions of arrays, and of language models."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vplib.model.decoders import CausalLM, log_probabilities
from vplib.model.encoders import patchify


def contrastive(
    video: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    *,
    chunk: int = 0,
) -> Float[Array, ""]:
    """Symmetric InfoNCE in nats of unit-length embeddings; clip i belongs to text i; `scale` is 1
    / temperature.

    Equal to log B when all similarities are equal. `chunk` > 0 computes the same value that many
    rows at a time and recomputes them in the backward pass, so the B x B logits never exist at
    once (global batches of thousands).

    Source: VideoPrism (arXiv:2402.13217) section 2.3.1; CoCa's symmetric softmax form.
    """
    if not chunk:
        logits = scale * (video @ text.T)  # B B
        # By index: jnp.diagonal branches, and within a branch XLA on CPU does not order what processes
        # exchange.
        each = jnp.arange(len(logits))
        own = logits[each, each]
        return (jax.nn.logsumexp(logits, 1) + jax.nn.logsumexp(logits, 0) - 2 * own).mean() / 2
    if video.shape[0] % chunk:
        raise ValueError(
            f"a batch of {video.shape[0]} does not divide into chunks of {chunk}: choose a divisor"
        )

    @jax.checkpoint
    def rows(carry, v):
        highest, total = carry
        logits = scale * (v @ text.T)  # chunk B
        new = jax.lax.stop_gradient(jnp.maximum(highest, logits.max(0)))
        total = total * jnp.exp(highest - new) + jnp.exp(logits - new).sum(0)
        return (new, total), jax.nn.logsumexp(logits, 1)

    start = (jnp.full(text.shape[0], -jnp.inf), jnp.zeros(text.shape[0]))
    (highest, total), over_text = jax.lax.scan(
        rows, start, video.reshape(-1, chunk, video.shape[1])
    )
    return (
        over_text.reshape(-1) + highest + jnp.log(total) - 2 * scale * (video * text).sum(-1)
    ).mean() / 2


def cosine_distance(
    student: Float[Array, "*A D"], teacher: Float[Array, "*A D"]
) -> Float[Array, "*A"]:
    """1 - cos of each vector pair, in [0, 2], in float32; the scale of either side does not matter.

    Source: VideoPrism section 2.3.2 (both the token-wise and the global distillation loss).
    """
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    norms = jnp.square(student).sum(-1) * jnp.square(teacher).sum(-1)
    return 1 - (student * teacher).sum(-1) * jax.lax.rsqrt(norms + 1e-12)


def squared_error(
    student: Float[Array, "*A D"], target: Float[Array, "*A D"]
) -> Float[Array, "*A"]:
    """Mean over D of the squared difference, in float32."""
    return jnp.square(student.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)


def normalised_patches(
    video: Float[Array, "B T H W 3"], patch: int, *, tubelet: int = 1
) -> Float[Array, "B S P"]:
    """Pixels of each patch of `tubelet` frames, as (frame, row, column, colour): of each colour
    minus its mean over the patch, over its deviation there.

    Our models have patches of one frame, so the targets have the grid of their tokens; VideoMAE's
    have two. Source: VideoMAE (github.com/MCG-NJU/VideoMAE), engine_for_pretraining.py.
    """
    x = patchify(video.astype(jnp.float32), patch)
    b, t, n, values = x.shape
    x = x.reshape(b, t // tubelet, tubelet, n, values).swapaxes(2, 3)
    x = x.reshape(b, t // tubelet * n, tubelet * values // 3, 3)
    x = x - x.mean(2, keepdims=True)
    return (x / (x.std(2, ddof=1, keepdims=True) + 1e-6)).reshape(*x.shape[:2], -1)


def continuation(
    lm: CausalLM,
    prefix: Float[Array, "B P D"],
    keep: Bool[Array, "B P"],
    ids: Int[Array, "B L"],
    ids_keep: Bool[Array, "B L"],
    said: Bool[Array, "B L"],
) -> Float[Array, ""]:
    """Mean cross-entropy, in nats, of the kept tokens after a prefix that are to be `said`: a
    caption's after a video and a prompt. Equal to the log of the vocabulary when all tokens are
    equally probable.

    Tokens count alike, whatever the length of their text; one with nothing before it does not.
    Raises ValueError as `log_probabilities`. Source: VideoPrism section 4.3 (autoregressive loss).
    """
    found, known = log_probabilities(lm, prefix, keep, ids, ids_keep)
    said = said & known
    return -(found * said).sum() / jnp.maximum(said.sum(), 1)

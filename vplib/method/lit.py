"""LiT, locked-image tuning: text learns to read an encoder that no longer changes.

Stage 2 improves the video encoder and leaves the text tower behind. Here the encoder is locked, and
text tower and attention pooler are tuned from their stage-1 weights.

Source: VideoPrism (arXiv:2402.13217) appendix F.1; LiT (arXiv:2111.07991). What the paper leaves
open is marked "our choice".
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from vplib.method.losses import contrastive
from vplib.method.stages import Stage1
from vplib.model import checkpoints
from vplib.model.encoders import VideoEncoder, VideoText, normalise
from vplib.model.sizes import Sizes


def assemble(
    sizes: Sizes, first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> VideoText:
    """The video-text model with the encoder of the weights `second` and all else of `first`.

    `second` are the weights of stage 2, or of any model with a video encoder. Raises
    CheckpointError when the sizes or the vocabulary of either are not `sizes`.
    """
    model = checkpoints.shapes(sizes)
    checkpoints.assign(model, first, name="stage 1")
    parts = ("params/vision_encoder", "params/encoder")  # of video-text models, of classifiers
    prefix = next((p for p in parts if any(k.startswith(f"{p}/") for k in second)), "params")
    checkpoints.assign(model.vision_encoder, second, prefix=prefix, name="the encoder to be locked")
    return model


def lock(model: VideoText) -> tuple[VideoEncoder, Stage1]:
    """The encoder, which stays as it is, and what is tuned: copies of the pooler and the text
    tower.

    No gradient can reach an encoder that is not there. The temperature is that of a new stage 1,
    since files of weights hold none. Auxiliary layers, which only the released models have, lie
    behind the encoder and are tuned with the pooler (both our choice).
    """
    tuned = nnx.clone(model)
    del tuned.vision_encoder
    return model.vision_encoder, Stage1(tuned)


def join(encoder: VideoEncoder, stage: Stage1) -> VideoText:
    """The tuned model with its encoder again: one model for every evaluation."""
    model = nnx.clone(stage.model)
    model.vision_encoder = encoder
    return model


def lit_loss(
    stage: Stage1,
    batch: dict,
    *,
    loss_chunk: int = 0,
    dtype=jnp.float32,
    key: Array | None = None,
    step: Int[Array, ""] | int = 0,
):
    """InfoNCE of one batch {tokens (B,S,D) of the locked encoder, ids (B,L), keep (B,L)}, both
    ways, and numbers to log.

    The loss of stage 1, but for what only an encoder in training needs: whole clips are pooled, none
    of their places is dropped (our choice: so evaluation shows them). `loss_chunk` is the chunk of
    `contrastive`. Nothing depends on `key` and `step`, which `fit` gives every loss.
    """
    v = normalise(stage.model.pool(batch["tokens"].astype(dtype)))
    t = stage.model.encode_text(batch["ids"], batch["keep"])
    scale = jnp.exp(stage.log_scale[...])
    loss = contrastive(v, t, scale, chunk=loss_chunk)
    hits = ((v @ t.T).argmax(1) == jnp.arange(len(v))).mean()
    return loss, {"batch_r1": hits, "temperature": 1 / scale}

"""Contrastive and masked learning in one stage, from random weights: an ablation.

The paper has two scores of it (arXiv:2402.13217, figure 4) and says of its form no more than that
contrastive learning and masked autoencoding are trained together. All else is our choice, the
simplest: clips of a batch of stage 1 are encoded once more, through a mask of stage 2, whose local
decoder predicts the hidden patches' pixels as in MAE; images, as in stage 2, are not masked.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from vplib.method.stages import Stage1, Stage2, stage1_loss, stage2_loss
from vplib.model.encoders import VideoText
from vplib.model.sizes import Sizes

# Of the masked part: stage 2's mask, tokens at their own places, hidden patches alone (MAE's).
FORM = dict(
    mask="bevt",
    targets="pixels",
    masked_only=True,
    shuffle_tokens=False,
    normalise_targets=False,
)


class OneStage(Stage1):
    """Stage 1, and a stage 2 of pixels whose student is stage 1's own encoder: one module, in two
    places."""

    def __init__(self, model: VideoText, sizes: Sizes, *, rngs: nnx.Rngs):
        super().__init__(model)
        own = dict(teacher=sizes, local_loss=True, global_loss=False, pixels=True)
        self.stage2 = Stage2(model.vision_encoder, sizes, **own, rngs=rngs)


def one_stage_loss(
    stage: OneStage,
    batch: dict,
    *,
    masked: float,
    drop_ratio: float,
    loss_chunk: int = 0,
    dtype=jnp.float32,
    key: Array,
    step: Int[Array, ""] | int = 0,
):
    """The loss of `stage1_loss` plus, of clips, the mean squared error of pixels of the hidden
    places, a share `masked` of all; both of weight one. Numbers to log beside those of stage 1: both
    terms, `contrastive` and `masked`, which is 0 for images, and `clips`, 0 for images and 1 for
    clips: the mean over clips is the one by the other.
    """
    k_drop, k_mask = jax.random.split(key)
    settings = dict(dtype=dtype, step=step)
    loss, numbers = stage1_loss(
        stage, batch, drop_ratio=drop_ratio, loss_chunk=loss_chunk, key=k_drop, **settings
    )
    hidden, clips = jnp.zeros(()), jnp.float32(batch["video"].shape[1] > 1)
    if batch["video"].shape[1] > 1:  # no teacher is asked for pixels: the model stands for one
        hidden, _ = stage2_loss(
            stage.stage2, batch, stage.model, mask_ratio=masked, key=k_mask, **FORM, **settings
        )
    return loss + hidden, numbers | {"contrastive": loss, "masked": hidden, "clips": clips}

"""An image model as CoCa's, for stage 1 to start from, and a spatial stack that stays: an ablation.

The paper starts from CoCa's and compares with CLIP's, which is stage 1 on images alone (VideoPrism,
arXiv:2402.13217, table 25). Source: CoCa (arXiv:2205.01917).
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vplib.method.losses import contrastive
from vplib.method.stages import Stage1
from vplib.model.decoders import Decoder, LanguageSizes
from vplib.model.encoders import VideoText, normalise, pixels
from vplib.model.sizes import Sizes


class CoCa(Stage1):
    """Stage 1 and the upper half of a text decoder, of as many layers as the text encoder, its lower
    half, has: as in CoCa, what is known of each word and those before it.

    Our choice: the image's tokens stand before the words, where CoCa's upper half attends to 256 pooled
    vectors of theirs between its layers.
    """

    def __init__(self, model: VideoText, sizes: Sizes, *, rngs: nnx.Rngs):
        super().__init__(model)
        width, layers, heads = sizes.width, sizes.text_layers, sizes.heads
        own = LanguageSizes(width, layers, heads, 4 * width, sizes.vocabulary, context=None)
        self.decoder = Decoder(own, rngs=rngs)


def caption_loss(
    decoder: Decoder,
    tokens: Float[Array, "B S D"],
    words: Float[Array, "B L D"],
    ids: Int[Array, "B L"],
    keep: Bool[Array, "B L"],
) -> Float[Array, ""]:
    """Mean cross-entropy, in nats, of the kept words of a caption, each from all tokens of its image
    and what the text encoder says of the words before it, `words`. Padding comes last. Equal to the
    log of the vocabulary when all words are equally probable.
    """
    b, s, _ = tokens.shape
    before = jnp.concatenate([tokens, words[:, :-1].astype(tokens.dtype)], axis=1)
    known = jnp.concatenate([jnp.ones((b, s), bool), keep[:, :-1]], axis=1)
    logits = decoder.head(decoder.hidden(before, known)[:, s - 1 :])  # B L W
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
    return -(chosen * keep).sum() / jnp.maximum(keep.sum(), 1)


def coca_loss(
    stage: CoCa,
    batch: dict,
    *,
    captions: float,
    drop_ratio: float = 0.0,
    loss_chunk: int = 0,
    dtype=jnp.float32,
    key: Array | None = None,
    step: Int[Array, ""] | int = 0,
):
    """InfoNCE of a batch of images, as in `stage1_loss`, plus `captions` times the `caption_loss` (2 in
    CoCa), and numbers to log. Nothing is dropped of images, and nothing depends on `drop_ratio`, `key`
    and `step`. Raises ValueError for clips.
    """
    if batch["video"].shape[1] > 1:
        raise ValueError(
            "stage1.captions is of images, and a corpus of clips is among data.corpora: give clips "
            "the weight 0"
        )
    model, ids, keep = stage.model, batch["ids"], batch["keep"]
    tokens = model.vision_encoder(pixels(batch["video"], dtype), crop=True)
    words = model.text_encoder.words(ids, keep)
    v, t = normalise(model.pool(tokens)), normalise(words[:, -1])
    scale = jnp.exp(stage.log_scale[...])
    told_apart = contrastive(v, t, scale, chunk=loss_chunk)
    written = caption_loss(stage.decoder, tokens, words[:, :-1], ids, keep)
    numbers = {
        "batch_r1": ((v @ t.T).argmax(1) == jnp.arange(len(v))).mean(),
        "temperature": 1 / scale,
        "contrastive": told_apart,
        "caption": written,
    }
    return told_apart + captions * written, numbers


STAYS = ("patch_projection", "spatial_pos_emb", "spatial_encoder", "spatial_ln")


def frozen_space() -> optax.GradientTransformation:
    """A last step of stage 1's optimiser after which the encoder's spatial stack, its patches and its
    positions are what they were, decay of weights included.
    """

    def limit(path, update):
        names = {getattr(part, "key", None) for part in path}
        stays = "vision_encoder" in names and names & {*STAYS}
        return jnp.zeros_like(update) if stays else update

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(limit, updates))

"""What a frozen model knows: cached tokens, probes with seeds and intervals, zero-shot classes, retrieval."""

from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from vplib import data, heads, metrics
from vplib.encoders import VideoEncoder, VideoText, normalise
from vplib.stages import pixels
from vplib.text import Tokenizer


def features(encode: Callable, folder: Path, **reading) -> tuple[np.ndarray, list[str], list[dict]]:
    """`encode(video uint8)` of every clip of an evaluation corpus, with its texts and metas; `reading` as `data.once`."""
    run, outputs, texts, metas = jax.jit(encode), [], [], []
    for batch, batch_texts, batch_metas in data.once(folder, **reading):
        video = batch["video"]
        full = np.concatenate([video, np.repeat(video[-1:], reading["batch"] - len(video), 0)])  # one shape, one compile
        outputs.append(np.asarray(run(full))[:len(video)])
        texts += batch_texts
        metas += batch_metas
    return np.concatenate(outputs), texts, metas


def tokens_of(encoder: VideoEncoder) -> Callable:
    """All tokens of a clip, in half precision to keep caches small."""
    return lambda video: encoder(pixels(video)).astype("float16")


def single_frame_tokens_of(encoder: VideoEncoder) -> Callable:
    """Tokens of the clip's middle frame shown in every frame: what appearance alone can tell."""
    def encode(video):
        middle = video.shape[1] // 2
        still = jax.numpy.broadcast_to(video[:, middle:middle + 1], video.shape)
        return encoder(pixels(still)).astype("float16")
    return encode


def probe_scores(train: tuple[np.ndarray, Int[np.ndarray, " C"]], test: tuple[np.ndarray, Int[np.ndarray, " M"]], *,
                 classes: int, seeds: Iterable[int], **recipe) -> tuple[Float[np.ndarray, "R M"], Int[np.ndarray, "R M"]]:
    """Hits (0/1) and guesses on the test clips of one probe per seed; `recipe` as `heads.train_probe`."""
    guesses = []
    for seed in seeds:
        probe = heads.train_probe(*train, classes=classes, seed=seed, **recipe)
        guesses.append(heads.predict(probe, test[0]).argmax(1))
    guesses = np.stack(guesses)
    return (guesses == test[1]).astype(float), guesses


def embed_texts(model: VideoText, tokenizer: Tokenizer, texts: list[str], *, batch: int = 128) -> Float[np.ndarray, "Q E"]:
    """Unit-length embeddings of any number of texts."""
    run, outputs = jax.jit(lambda model, ids, keep: model.encode_text(ids, keep)), []
    for i in range(0, len(texts), batch):
        ids, keep = tokenizer(texts[i:i + batch] + [""] * max(0, i + batch - len(texts)))
        outputs.append(np.asarray(run(model, ids, keep)))
    return np.concatenate(outputs)[:len(texts)]


def class_embeddings(model: VideoText, tokenizer: Tokenizer, prompts: list[list[str]]) -> Float[np.ndarray, "K E"]:
    """One unit-length vector a class: the mean of its prompts' embeddings.

    Source: VideoPrism section 4.2 uses CLIP's prompt set; taking the mean is our choice, as CLIP did.
    """
    flat = embed_texts(model, tokenizer, [p for group in prompts for p in group])
    ends = np.cumsum([len(group) for group in prompts])[:-1]
    return np.asarray(normalise(np.stack([part.mean(0) for part in np.split(flat, ends)])))


def retrieval(video: Float[np.ndarray, "M E"], text: Float[np.ndarray, "M E"]) -> dict[str, Float[np.ndarray, " M"]]:
    """Hits of each query: text-to-video and video-to-text recall at 1 and 5."""
    similarity = text @ video.T
    return {f"{way}_r{k}": metrics.recall_at(matrix, k)
            for way, matrix in (("t2v", similarity), ("v2t", similarity.T)) for k in (1, 5)}

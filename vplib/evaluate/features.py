"""What a frozen model knows: cached tokens, probes with seeds and intervals, zero-shot classes, retrieval."""

from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from vplib.data import pipeline
from vplib.data.text import Tokenizer
from vplib.evaluate import heads, metrics
from vplib.model.encoders import VideoEncoder, VideoText, normalise, pixels


def clips(folder: Path, **reading) -> tuple[UInt8[np.ndarray, "M T S S 3"], list[str], list[dict]]:
    """Frames, texts and metas of a whole evaluation corpus; `reading` as `data.once`."""
    videos, texts, metas = [], [], []
    for batch, batch_texts, batch_metas in pipeline.once(folder, **reading):
        videos.append(batch["video"])
        texts += batch_texts
        metas += batch_metas
    return np.concatenate(videos), texts, metas


def features(
    encode: Callable, videos: UInt8[np.ndarray, "M T S S 3"], *, batch: int = 64
) -> np.ndarray:
    """`encode(video uint8)` of every clip."""
    run, outputs = jax.jit(encode), []
    for start in range(0, len(videos), batch):
        part = videos[start : start + batch]
        full = np.concatenate(
            [part, np.repeat(part[-1:], batch - len(part), 0)]
        )  # one shape, one compile
        outputs.append(np.asarray(run(full))[: len(part)])
    return np.concatenate(outputs)


def labels(metas: list[dict], key: str) -> list[str]:
    """The label of each clip at a dotted key of its metadata, such as `labels.motion`.

    Raises ValueError naming the first clip that has none.
    """
    found = []
    for number, meta in enumerate(metas):
        value = meta
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            raise ValueError(
                f"clip {number} ({meta.get('file_name', 'of the world')}) has no {key!r}: add it to every line of "
                "metadata.jsonl and prepare the corpus again, or leave out probes and data.zero_shot"
            )
        found.append(str(value))
    return found


def tokens_of(encoder: VideoEncoder) -> Callable:
    """All tokens of a clip, in half precision to keep caches small."""
    return lambda video: encoder(pixels(video)).astype("float16")


def single_frame_tokens_of(encoder: VideoEncoder) -> Callable:
    """Tokens of the clip's middle frame shown in every frame: what appearance alone can tell."""

    def encode(video):
        middle = video.shape[1] // 2
        still = jax.numpy.broadcast_to(video[:, middle : middle + 1], video.shape)
        return encoder(pixels(still)).astype("float16")

    return encode


def probe_scores(
    train: tuple[np.ndarray, Int[np.ndarray, " C"]],
    test: tuple[np.ndarray, Int[np.ndarray, " M"]],
    *,
    classes: int,
    seeds: Iterable[int],
    **recipe,
) -> tuple[Float[np.ndarray, "R M"], Int[np.ndarray, "R M"]]:
    """Hits (0/1) and guesses on the test clips of one probe per seed; `recipe` as `heads.train_probe`."""
    guesses = []
    for seed in seeds:
        probe = heads.train_probe(*train, classes=classes, seed=seed, **recipe)
        guesses.append(heads.predict(probe, test[0]).argmax(1))
    guesses = np.stack(guesses)
    return (guesses == test[1]).astype(float), guesses


def embed_texts(
    model: VideoText, tokenizer: Tokenizer, texts: list[str], *, batch: int = 128
) -> Float[np.ndarray, "Q E"]:
    """Unit-length embeddings of any number of texts."""
    run, outputs = jax.jit(lambda model, ids, keep: model.encode_text(ids, keep)), []
    for i in range(0, len(texts), batch):
        ids, keep = tokenizer(texts[i : i + batch] + [""] * max(0, i + batch - len(texts)))
        outputs.append(np.asarray(run(model, ids, keep)))
    return np.concatenate(outputs)[: len(texts)]


def class_embeddings(
    model: VideoText, tokenizer: Tokenizer, prompts: list[list[str]]
) -> Float[np.ndarray, "K E"]:
    """One unit-length vector a class: the mean of its prompts' embeddings.

    Source: VideoPrism section 4.2 uses CLIP's prompt set; taking the mean is our choice, as CLIP did.
    """
    flat = embed_texts(model, tokenizer, [p for group in prompts for p in group])
    ends = np.cumsum([len(group) for group in prompts])[:-1]
    return np.asarray(normalise(jax.numpy.stack([part.mean(0) for part in np.split(flat, ends)])))


def retrieval(
    video: Float[np.ndarray, "M E"], text: Float[np.ndarray, "M E"]
) -> dict[str, Float[np.ndarray, " M"]]:
    """Hits of each query: text-to-video and video-to-text recall at 1 and 5."""
    similarity = text @ video.T
    return {
        f"{way}_r{k}": metrics.recall_at(matrix, k)
        for way, matrix in (("t2v", similarity), ("v2t", similarity.T))
        for k in (1, 5)
    }

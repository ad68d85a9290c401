"""A classifier of one's own videos on a frozen encoder: look at them, draw shots, fold the probe, save, open, predict."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Float16, Int, UInt8

from vplib.data import pipeline, shards
from vplib.data.sources import SourceError
from vplib.data.video import VideoError
from vplib.evaluate.heads import Probe
from vplib.model import checkpoints
from vplib.model.encoders import VideoClassifier, VideoEncoder, pixels


@runtime_checkable
class Originals(Protocol):
    """Labelled videos: `original(i)` is a file, or its bytes, and a dictionary with `file_name` and whatever is known."""

    def __len__(self) -> int: ...

    def original(self, index: int) -> tuple[bytes | Path, dict]: ...


def view(encoder: VideoEncoder) -> dict[str, int]:
    """The `frames` and the `size` in pixels that an encoder was trained on."""
    return {
        "frames": encoder.temporal_pos_emb.emb_var.shape[0],
        "size": encoder.grid * encoder.patch,
    }


def heads(encoder: VideoEncoder) -> int:
    """Attention heads of a block; the released classifier pools with as many."""
    return encoder.spatial_encoder.transformers_stack.x_layers.self_attention.query.w.shape[
        2
    ]  # layers D K H


def frozen_tokens(
    encoder: VideoEncoder,
    source: Originals,
    *,
    batch: int,
    max_skipped_fraction: float,
    report: Path,
    progress=None,
) -> tuple[Float16[np.ndarray, "C S D"], list[dict], list[dict]]:
    """Tokens of every video of `source` that can be read, what is known of each, and the {file, reason} of the others.

    Videos are read one by one and never kept; the tokens are, in half precision (2 S D bytes a clip).
    `progress.update(clips, skipped=...)` is called after each batch. What was left out is written to `report`.

    Raises SourceError if more than `max_skipped_fraction` of the videos cannot be used, or none is left.
    """
    seen, metas, skipped, videos = view(encoder), [], [], []
    places, width = encoder.grid**2, encoder.temporal_ln.scale.shape[0]
    tokens, done = np.empty((len(source), seen["frames"] * places, width), np.float16), 0
    for index in range(len(source)):
        try:
            original, meta = source.original(index)
            videos.append(pipeline.read_clip(original, name=meta["file_name"], **seen))
            metas.append(meta)
        except VideoError as error:
            skipped.append({"file": error.name, "reason": error.problem})
        if len(videos) == batch or (videos and index == len(source) - 1):
            full = np.stack(videos + videos[-1:] * (batch - len(videos)))  # one shape, one compile
            tokens[done : done + len(videos)] = np.asarray(_tokens(encoder, full))[: len(videos)]
            done, videos = done + len(videos), []
            if progress is not None:
                progress.update(index + 1, skipped=len(skipped))
    shards.write_skipped(report, skipped)
    if len(skipped) > max_skipped_fraction * len(source) or not done:
        raise SourceError(
            f"{len(skipped)} of {len(source)} videos cannot be used and the allowed share is {max_skipped_fraction:g} "
            f"(first: {skipped[0]['file']} {skipped[0]['reason']}); repair the files listed in {report}, or give "
            "data.max_skipped_fraction=0.05 tag=again."
        )
    return tokens[:done], metas, skipped


@jax.jit
def _tokens(encoder: VideoEncoder, video: UInt8[Array, "B T S S 3"]) -> Float16[Array, "B N D"]:
    return encoder(pixels(video)).astype("float16")


def few_shots(labels: Int[np.ndarray, " C"], shots: int | None, seed: int) -> Int[np.ndarray, " N"]:
    """Rows of `shots` clips of every class, drawn by `seed`; a class that has fewer gives all. All rows for None."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == k))[:shots] for k in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def fold(probe: Probe, encoder: VideoEncoder) -> VideoClassifier:
    """Encoder and probe as a released classifier, which knows no standardisation: the same logits.

    Keys and values are linear in the tokens, so with w' = w / deviation and b' = b - mean @ w'
    ((x - mean) / deviation) @ w + b = x @ w' + b'. Exact but for rounding.
    """
    weights = checkpoints.flatten(probe)
    mean, deviation = (np.asarray(part[...], np.float64) for part in (probe.mean, probe.deviation))
    for part in ("key", "value"):
        name = f"params/atten_pooler/pooling_attention/{part}"
        w = weights[f"{name}/w"] / deviation[:, None, None]  # D K H
        weights[f"{name}/b"] = (weights[f"{name}/b"] - np.einsum("d,dkh->kh", mean, w)).astype(
            np.float32
        )
        weights[f"{name}/w"] = w.astype(np.float32)
    weights |= {
        name.replace("params/", "params/encoder/", 1): value
        for name, value in checkpoints.flatten(encoder).items()
    }
    return checkpoints.build(weights, name="the classifier")


def save(classifier: VideoClassifier, classes: Sequence[str], folder: Path) -> None:
    """Write `classifier.npz`, in the released layout, and `classes.json`, the name of each logit."""
    folder = Path(folder)
    checkpoints.save(classifier, folder / "classifier.npz")
    temporary = folder / "classes.json.tmp"
    temporary.write_text(
        json.dumps({"classes": list(classes)}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    os.replace(temporary, folder / "classes.json")


def restore(folder: Path) -> tuple[VideoClassifier, list[str]]:
    """The classifier that `save` wrote and the names of its classes.

    Raises CheckpointError if the folder holds none, or its two files do not fit.
    """
    folder = Path(folder)
    try:
        classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise checkpoints.CheckpointError(
            f"no classifier in {folder}: there is no readable classes.json; give the run "
            "folder of a finished 45_own_classifier"
        ) from None
    classifier = checkpoints.load(folder / "classifier.npz")
    outputs = (
        classifier.projection.linear.bias.shape[0] if isinstance(classifier, VideoClassifier) else 0
    )
    if outputs != len(classes):
        raise checkpoints.CheckpointError(
            f"{folder}: classifier.npz has {outputs} classes and classes.json {len(classes)}; "
            "run 45_own_classifier again"
        )
    return classifier, classes


def probabilities(classifier: VideoClassifier, path: Path) -> Float[np.ndarray, " K"]:
    """Of each class for one video file. Raises VideoError if it cannot be read."""
    video = pipeline.read_clip(Path(path), name=str(path), **view(classifier.encoder))
    return np.asarray(_probabilities(classifier, video[None]))[0]


@jax.jit
def _probabilities(
    classifier: VideoClassifier, video: UInt8[Array, "B T S S 3"]
) -> Float[Array, "B K"]:
    return jax.nn.softmax(classifier(pixels(video)))

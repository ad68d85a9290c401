"""Your own classifier on a frozen encoder: draw shots, train probes, merge, save, restore, use."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float16, Int, UInt8

from vplib import files
from vplib.data import pipeline
from vplib.evaluate import multilayer, over_time
from vplib.evaluate.cache import Rows
from vplib.evaluate.heads import Probe
from vplib.evaluate.multilayer import MultilayerClassifier, MultilayerProbe
from vplib.evaluate.over_time import Along
from vplib.model import checkpoints, frozen
from vplib.model.encoders import VideoClassifier, VideoEncoder, pixels
from vplib.progress import Progress

BATCH = 16  # windows an accelerator is given at a time; on a CPU one at a time is as fast


def view(encoder: VideoEncoder) -> dict[str, int]:
    """The `frames` and the `size` in pixels that an encoder was trained on."""
    return {
        "frames": encoder.temporal_pos_emb.emb_var.shape[0],
        "size": encoder.grid * encoder.patch,
    }


def attention_heads(encoder: VideoEncoder) -> int:
    """Attention heads of a block; the released classifier pools with as many."""
    stack, _ = encoder.stacks[0]
    return stack.x_layers.self_attention.query.w.shape[2]  # layers D K H


def few_shots(labels: Int[np.ndarray, " C"], shots: int | None, seed: int) -> Int[np.ndarray, " N"]:
    """Rows of `shots` clips of every class, drawn by `seed`; a class that has fewer gives all. All
    rows for None.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == k))[:shots] for k in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def train_probes(
    tokens: Float16[np.ndarray | Rows, "C *k S D"],
    labels: Int[np.ndarray, " C"],
    *,
    shots: int | None,
    steps: int,
    seeds: Sequence[int],
    epochs: int,
    batch: int,
    **recipe,
) -> list[Probe | MultilayerProbe]:
    """A probe of each seed, on tokens of one layer or several, which draws its own `few_shots`,
    trained for `epochs`, and for `steps` batches at least.
    """
    probes = []
    with Progress(len(seeds), "probes") as progress:
        for seed in seeds:
            rows = few_shots(labels, shots, seed)
            epochs_here = max(epochs, -(-steps // (len(rows) // min(batch, len(rows)))))
            probes.append(
                multilayer.train(
                    tokens[rows], labels[rows], epochs=epochs_here, batch=batch, seed=seed, **recipe
                )
            )
            progress.update(len(probes))
    return probes


def merge_standardisation(probe: Probe, encoder: VideoEncoder) -> VideoClassifier:
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


def save(
    classifier: VideoClassifier | MultilayerClassifier,
    classes: Sequence[str],
    folder: Path,
    *,
    encoder: str,
) -> None:
    """Write `classifier.npz`, in the released layout where that has such a model, and
    `classes.json`: a name a logit, and whose
    `encoder` it is, in words.
    """
    folder = Path(folder)
    checkpoints.save(classifier, folder / "classifier.npz")
    told = {"classes": list(classes), "encoder": encoder}
    files.write(folder / "classes.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def restore(folder: Path) -> tuple[VideoClassifier | MultilayerClassifier, list[str], str]:
    """The classifier that `save` wrote, the names of its classes, and whose encoder it has.

    Raises CheckpointError if the folder holds none, or its two files do not fit.
    """
    folder = Path(folder)
    try:
        told = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        classes, encoder = told["classes"], told.get("encoder", "unknown")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise checkpoints.CheckpointError(
            f"no classifier in {folder}: there is no readable classes.json; give the run "
            "folder of a finished 45_own_classifier"
        ) from None
    weights = checkpoints.read(folder / "classifier.npz")
    last = [weights[name] for name in _LAST if name in weights]
    outputs = last[0].shape[-1] if last else 0
    if outputs != len(classes):
        raise checkpoints.CheckpointError(
            f"{folder}: classifier.npz has {outputs} classes and classes.json {len(classes)}; "
            "run 45_own_classifier again"
        )
    return _built(weights, str(folder / "classifier.npz")), classes, encoder


_LAST = ("params/projection/linear/bias", "params/head/projection/linear/bias")


def _built(weights: dict[str, np.ndarray], name: str) -> VideoClassifier | MultilayerClassifier:
    """The classifier that the arrays are of; one of several layers has a `head`."""
    if "params/head/mean" not in weights:
        return checkpoints.build(weights, name=name)
    own = {key: value for key, value in weights.items() if key.startswith("params/head/")}
    encoder = {
        key.replace("params/encoder/", "params/", 1): value
        for key, value in weights.items()
        if key not in own
    }
    layers, width, heads, size = weights["params/head/layers/attention/query/w"].shape
    shapes = dict(layers=layers, inner=heads * size, rngs=nnx.Rngs(0))
    plain = np.zeros(layers * width, np.float32)
    head = MultilayerProbe(plain, plain, heads, own[_LAST[1]].shape[0], **shapes)
    classifier = MultilayerClassifier(checkpoints.build(encoder, name=name), head)
    checkpoints.assign(classifier.head, own, prefix="params/head", name=name)
    return classifier


def probabilities_of(
    classifier: VideoClassifier | MultilayerClassifier, dtype: str = "float32"
) -> Callable[[Path], Float[np.ndarray, " K"]]:
    """A function of a video file: the probability of each class, computed in `dtype`.

    It raises VideoError if the file cannot be read, and CheckpointError if the classifier's numbers
    are not finite.
    """
    reading, (graph, weights) = view(classifier.encoder), frozen.apart(classifier, dtype)

    def probabilities(path: Path) -> Float[np.ndarray, " K"]:
        video = pipeline.read_clip(Path(path), name=str(path), **reading)
        found = np.asarray(_probabilities(graph, weights, video[None], dtype))[0]
        if not np.isfinite(found).all():
            raise checkpoints.CheckpointError(
                f"{path}: the classifier gives numbers that are not finite: its weights are "
                "damaged; run 45_own_classifier again"
            )
        return found

    return probabilities


def along(
    classifier: VideoClassifier, dtype: str = "float32", *, length: float, stride: float
) -> Callable[[Path], Along]:
    """A function of a video file of any length: the probability of each class in each of its
    windows of `length` seconds, one every `stride` seconds, computed in `dtype`.

    It raises as `over_time.along`.
    """
    run = partial(_probabilities, *frozen.apart(classifier, dtype), dtype=dtype)
    batch = 1 if jax.default_backend() == "cpu" else BATCH
    reading = view(classifier.encoder) | dict(length=length, stride=stride, batch=batch)
    return lambda path: over_time.along(
        run, Path(path), name=str(path), encoder="the classifier", **reading
    )


@partial(jax.jit, static_argnames=("graph", "dtype"))
def _probabilities(
    graph: nnx.GraphDef, weights: nnx.State, video: UInt8[Array, "B T S S 3"], dtype: str
) -> Float[Array, "B K"]:
    classifier = frozen.together(graph, weights)
    return jax.nn.softmax(classifier(pixels(video, dtype)).astype("float32"))

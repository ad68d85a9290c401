"""Four ways to adapt an encoder to labelled videos: two frozen ones, adapters, end to end.

`frozen` trains a head on the last layer's tokens (`heads.Probe`), `mlap` one on those of four
layers (`multilayer.MultilayerProbe`): both on cached tokens. `adapter` trains a bottleneck beside
every MLP with the head of `frozen`, `end_to_end` all weights with it: both from videos, by `tune`.
Source: VideoGLUE (arXiv:2307.03166) section 3.3, VideoPrism (arXiv:2402.13217) appendix E. Learning
rates, regularisation and where training begins are our choice: heads are new, there is no dropout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float16, PyTree, UInt8

from vplib.data import labelled
from vplib.evaluate import boxes, multilayer, science
from vplib.evaluate.boxes import BoxProbe
from vplib.evaluate.cache import Rows
from vplib.evaluate.heads import Probe
from vplib.evaluate.localise import KeyFrames
from vplib.evaluate.tasks import Answers, Task
from vplib.model.adapters import Adapters, join
from vplib.model.encoders import VideoEncoder, configure, pixels
from vplib.model.sizes import Sizes
from vplib.train import loop, optimiser

HEADS, NETWORKS = ("frozen", "mlap"), ("adapter", "end_to_end")  # what is trained
ADAPTATIONS = HEADS + NETWORKS
# Tasks of the world by the kinds that a VideoGLUE average is of: appearance, motion, several labels
# a clip, boxes.
GROUPS = (("object",), ("motion", "fine_motion"), ("multilabel",), ("boxes",))
SAMPLE = 64  # clips whose tokens say what a head begins with


class Tuning(nnx.Module):
    """What is trained from videos: a head, and either a whole encoder or the adapters in one."""

    def __init__(self, head: Probe | BoxProbe, trained: VideoEncoder | Adapters):
        self.head = head
        if isinstance(trained, Adapters):
            self.adapters = trained
        else:
            self.encoder = trained

    def network(self, frozen: VideoEncoder | None) -> VideoEncoder:
        """The encoder as it is now; `frozen` is the one that adapters are put into."""
        return join(frozen, self.adapters) if hasattr(self, "adapters") else self.encoder

    def __call__(
        self, batch: Mapping[str, Array], frozen: VideoEncoder | None = None, dtype=jnp.float32
    ) -> Float[Array, "B *M K"]:
        """Logits of a batch {video (B,T,S,S,3) and, for a head on boxes, rows (B,M,7,H) and columns
        (B,M,7,W): `boxes.samples`}."""
        return read(self.head, self.network(frozen)(pixels(batch["video"], dtype)), batch)


def read(
    head: nnx.Module, tokens: Float[Array, "B S D"], batch: Mapping[str, Array]
) -> Float[Array, "B *M K"]:
    """What a head of clips, or one of boxes, says of tokens."""
    if "rows" not in batch:
        return head(tokens)
    return head(boxes.beside(tokens, batch["rows"], batch["columns"]))


def loss(
    tuning: Tuning,
    batch: dict,
    frozen: VideoEncoder | None = None,
    *,
    of: Callable,
    dtype=jnp.float32,
    key: Array | None = None,
    step: Array | int = 0,
):
    """The mean of `of`(logits, targets) over a batch, in nats, for `loop.fit`; and no more numbers.

    Nothing depends on `key` and `step`.
    """
    return of(tuning(batch, frozen, dtype), batch["target"]).mean(), {}


def tune(
    encoder: VideoEncoder,
    sizes: Sizes,
    arrays: Mapping[str, np.ndarray],
    *,
    adaptation: str,
    classes: int,
    heads: int,
    width: int | None = None,
    inner: int,
    blocks: int | None = None,
    layer_decay: float = 1.0,
    steps: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    out: Path,
    identity: str,
    of: Callable = optax.softmax_cross_entropy_with_integer_labels,
    every: int,
    kernel: str = "plain",
    remat: bool = False,
    accumulate: int = 1,
    dtype: str = "float32",
    title: str = "adaptation",
) -> tuple[VideoEncoder, Probe | BoxProbe]:
    """Encoder and head after `steps` batches of `arrays` {video, target[, rows, columns]}.

    `adapter` has bottlenecks of width `inner` in all blocks; of `end_to_end` the last `blocks`
    learn (all for None, and then patches and positions, too), each with `layer_decay` times the
    learning rate of the one after it. The head is that of frozen tokens: `heads` of a summed
    `width`, standardised by the tokens with which training begins. AdamW, cosine decay after 5%
    warm-up. A state is kept every `every` steps, from which a stopped training goes on in `out`, as
    in `loop.fit`, with its errors and `identity`. A step takes its batch, at most all clips, in
    `accumulate` parts.

    Raises ValueError for another adaptation, more blocks than there are, heads that do not divide
    their width, and a batch that the parts do not divide.
    """
    check(sizes, adaptation, heads=heads, width=width, blocks=blocks)
    batch = _batch(min(batch, len(arrays["target"])), accumulate)
    rngs = nnx.Rngs(seed)
    head = _head(encoder, arrays, heads, width, classes, dtype, rngs)
    if adaptation == "adapter":
        frozen, tuning = encoder, Tuning(head, Adapters(replace(sizes, adapter=inner), rngs=rngs))
        configure(frozen, kernel=kernel, remat=remat)
    else:
        frozen, tuning = None, Tuning(head, nnx.clone(encoder))
        last(tuning.encoder, sizes, blocks)
    configure(tuning, kernel=kernel, remat=remat)
    rate = optimiser.schedule(
        "cosine", learning_rate=learning_rate, steps=steps, warmup=max(steps // 20, 1)
    )
    tx = optax.chain(
        optimiser.optimiser("adamw", rate, weight_decay=weight_decay, clip=1.0),
        optimiser.scaled(layer_rates(tuning, sizes, blocks=blocks, decay=layer_decay)),
    )
    tuning = loop.fit(
        tuning,
        partial(loss, of=of, dtype=jnp.dtype(dtype)),
        labelled.stream(arrays, batch=batch, seed=seed, **_share()),
        steps=steps,
        tx=tx,
        seed=seed,
        out=out,
        identity=identity,
        frozen=frozen,
        accumulate=accumulate,
        every=every,
        checkpoint_every=every,
        title=title,
    )
    network = tuning.network(frozen)
    configure(network)
    last(network, sizes, None)
    return network, tuning.head


def _batch(clips: int, parts: int) -> int:
    if clips % parts:
        raise ValueError(
            f"a batch of {clips} clips has no {parts} equal parts: choose adapt.batch and "
            "adapt.accumulate so that it has"
        )
    return clips


def _share() -> dict[str, int]:
    """Of every batch, this process's."""
    return {"index": jax.process_index(), "count": jax.process_count()}


def check(
    sizes: Sizes, adaptation: str, *, heads: int, width: int | None, blocks: int | None
) -> None:
    """Raises ValueError, as `tune` does, before any video is read."""
    total = sizes.layers
    if adaptation not in NETWORKS:
        raise ValueError(
            f"{adaptation} is no adaptation of an encoder: choose adapter or end_to_end"
        )
    if blocks is not None and not 1 <= blocks <= total:
        raise ValueError(
            f"the last {blocks} blocks are to learn and the encoder has {total}: take from 1 to as many"
        )
    if (width or sizes.width) % heads:
        raise ValueError(
            f"{heads} heads do not divide a width of {width or sizes.width}: choose probe.heads "
            "that do, or give probe.width"
        )


def _head(encoder, arrays, heads, width, classes, dtype, rngs) -> Probe | BoxProbe:
    """A new head, standardised by what the encoder makes of the first clips."""
    run = jax.jit(lambda model, video: model(pixels(video, dtype)))
    rows = range(min(SAMPLE, len(arrays["target"])))
    some = np.concatenate(
        [
            np.asarray(run(encoder, np.asarray(arrays["video"][np.array([k])])), np.float32)
            for k in rows
        ]
    )
    plain = some.mean((0, 1)), some.std((0, 1)) + 1e-3
    if "rows" in arrays:
        return BoxProbe(*plain, heads, classes, most=arrays["rows"].shape[1], rngs=rngs)
    return Probe(*plain, heads, classes, inner=width, rngs=rngs)


def last(encoder: VideoEncoder, sizes: Sizes, blocks: int | None) -> None:
    """Let gradients reach the last `blocks` of an encoder alone, in place; None: all of it."""
    still = 0 if blocks is None else sizes.layers - blocks
    for stack, _ in encoder.stacks:
        layers = stack.x_layers.ff_layer.ffn_layer1.linear.bias.shape[0]
        stack.still = min(max(still, 0), layers)
        still -= layers


def layer_rates(tuning: Tuning, sizes: Sizes, *, blocks: int | None, decay: float) -> PyTree:
    """A factor of the learning rate of every parameter: 1 for the head, `decay` for the last block,
    `decay`^2 for the one before it, and so on to patches and positions; 0 for what stays.

    A stack's norm counts to its last block, the temporal positions to the first temporal one.
    Source: BEiT (arXiv:2106.08254); VideoGLUE's code has 0.75 for AVA alone.
    """
    total = sizes.layers
    still = 0 if blocks is None else total - blocks

    def factor(depth: np.ndarray) -> np.ndarray:  # of block 0, 1, ...; -1: before all blocks
        learns = depth >= still if blocks is not None else True
        return np.where(learns, decay ** (total - depth), 0).astype(np.float32)

    def of(path: tuple, value: Array) -> Array:
        names = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
        if "encoder" not in names:
            return jnp.float32(1)
        part = names[names.index("encoder") + 1]
        first = sizes.spatial_layers if part.startswith("temporal") else 0
        if "x_layers" in names:
            depth = first + np.arange(value.shape[0])
            return jnp.asarray(factor(depth).reshape(-1, *[1] * (value.ndim - 1)))
        depth = {
            "spatial_ln": sizes.spatial_layers - 1,
            "temporal_pos_emb": -1 if sizes.joint else sizes.spatial_layers,
            "temporal_ln": total - 1,
        }.get(part, -1)
        return jnp.asarray(factor(np.array(depth)))

    return jax.tree_util.tree_map_with_path(of, nnx.state(tuning, nnx.Param))


# --- answers -------------------------------------------------------------------------------------


class Clips(NamedTuple):
    """Labelled clips: frames for what trains the encoder, tokens of its last layers for what does
    not.
    """

    task: Task
    classes: Sequence[str]
    video: UInt8[np.ndarray | Rows, "C T S S 3"]
    layers: Float16[np.ndarray | Rows, "C k S D"]
    targets: np.ndarray  # of boxes `boxes.pack`'s
    places: list[Float[np.ndarray, "_ 4"]] | None = None  # boxes of each clip
    grid: tuple[int, int, int] | None = None  # of the tokens: time, height, width

    def arrays(self) -> dict[str, np.ndarray]:
        """What `tune` takes."""
        found = {"video": self.video, "target": self.targets}
        if self.places is None:
            return found
        return boxed(found, self.places, grid=self.grid, most=self.targets.shape[1])


def of_boxes(
    found: KeyFrames, classes: Sequence[str], *, grid: tuple[int, int, int], most: int
) -> Clips:
    """The clips whose key frame shows any box. Truth is per given box, as AVA's metric is for given
    boxes (`science.BOXES`).
    """
    use = [number for number, places in enumerate(found.boxes) if len(places)]
    places = [found.boxes[number] for number in use]
    targets = [
        np.array(
            [[label == name for name in classes] for label in found.labels[number]], np.float32
        )
        for number in use
    ]
    packed = boxes.pack(targets, boxes.pad(places, most)[1])
    video, layers = (found.values[name][use] for name in ("video", "layers"))
    return Clips(science.BOXES, classes, video, layers, packed, places, grid)


def answers(
    adaptation: str,
    encoder: VideoEncoder,
    sizes: Sizes,
    train: Clips,
    unseen: Sequence[Clips],
    *,
    setting: Mapping,
    seed: int,
    heads: int,
    width: int | None,
    **network,
) -> list[Answers]:
    """What an adaptation that learned from `train` says of each part of `unseen`.

    `setting` is the recipe of `heads.train_probe`, or of `tune`, which takes `network`.
    """
    if adaptation in HEADS:
        pick = (lambda x: x[:, -1]) if adaptation == "frozen" else (lambda x: x)
        head = _trained(pick(train.layers), train, seed, dict(setting))
        said = [_said(head, pick(part.layers), part) for part in unseen]
    else:
        multiple = {"of": boxes.packed_loss} if train.places is not None else {}
        if train.places is None and train.targets.ndim == 2:
            multiple = {"of": optax.sigmoid_binary_cross_entropy}
        tuned, head = tune(
            encoder,
            sizes,
            train.arrays(),
            adaptation=adaptation,
            classes=len(train.classes),
            heads=heads,
            width=width if train.places is None else None,
            seed=seed,
            **multiple,
            **setting,
            **network,
        )
        said = [logits(tuned, head, part.arrays()) for part in unseen]
    return [_answered(of, part) for of, part in zip(said, unseen, strict=True)]


def _trained(tokens: np.ndarray, train: Clips, seed: int, setting: dict) -> nnx.Module:
    if train.places is None:
        classes = len(train.classes)
        return train.task.train(tokens, train.targets, classes=classes, seed=seed, **setting)
    targets = [one[one[:, -1] > 0, :-1] for one in train.targets]
    setting.pop("width", None)  # a layer of boxes is as wide as the tokens
    most = train.targets.shape[1]
    return multilayer.train_boxes(
        tokens, train.places, targets, grid=train.grid, most=most, seed=seed, **setting
    )


def _said(head: nnx.Module, tokens: np.ndarray, part: Clips) -> np.ndarray:
    if part.places is None:
        return part.task.predict(head, tokens)
    found = np.zeros((*part.targets.shape[:2], len(part.classes)), np.float32)
    own = multilayer.predict_boxes(head, tokens, part.places, grid=part.grid)
    found[part.targets[..., -1] > 0] = np.concatenate(own)
    return found


def _answered(said: np.ndarray, part: Clips) -> Answers:
    if part.places is not None:
        truth = part.targets.astype(int)
        return Answers(part.task, science.ranks(said, truth[..., -1])[None], truth, part.classes)
    return Answers(part.task, said[None], part.targets, part.classes)


def logits(
    encoder: VideoEncoder,
    head: nnx.Module,
    arrays: Mapping[str, np.ndarray],
    *,
    batch: int = 64,
    dtype: str = "float32",
) -> Float[np.ndarray, "C *M K"]:
    """What a tuned encoder and its head say of clips; the last batch repeats its last clip, so that
    all have one shape.
    """
    given = {name: of for name, of in arrays.items() if name != "target"}
    count, parts = len(given["video"]), []
    batch = min(batch, count)
    for start in range(0, count, batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        said = _logits(
            encoder, head, {name: np.asarray(of[rows]) for name, of in given.items()}, dtype
        )
        parts.append(np.asarray(said)[: count - start])
    return np.concatenate(parts)


@partial(jax.jit, static_argnames="dtype")
def _logits(encoder, head, batch, dtype):
    return read(head, encoder(pixels(batch["video"], dtype)), batch).astype("float32")


def boxed(
    arrays: Mapping[str, np.ndarray],
    places: Sequence[Float[np.ndarray, "_ 4"]],
    *,
    grid: tuple[int, int, int],
    most: int,
) -> dict[str, np.ndarray]:
    """`arrays` with where the boxes of each clip are looked at; `grid` and errors as in
    `boxes.regions` and `boxes.pad`.
    """
    rows, columns = boxes.samples(boxes.pad(places, most)[0], grid)
    return {**arrays, "rows": rows, "columns": columns}

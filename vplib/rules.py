"""What every key of the configuration accepts, checked before anything starts."""

import math
import re
from collections.abc import Callable
from fnmatch import fnmatch
from typing import NamedTuple

MOST = 2_000_000_000  # of a whole number
TAG_BYTES = 100  # a folder's name has room for 255
# Keys of `data` that only evaluation reads: a notebook that trains has none of them, so that a new
# task or another number of labels leaves all trainings as they are.
EVALUATION = ("tasks", "retrieval", "zero_shot", "candidates", "families", "benchmarks")
NAME = re.compile(r"\w[\w.+-]*")  # what can name a folder, a figure and an option of Hydra


class Rule(NamedTuple):
    """What a key accepts: values of `kind` (None too where `null`) that pass `accepts`; `words`
    tell it.
    """

    kind: type
    accepts: Callable[[object], bool]
    words: str
    null: bool = False


def _whole(low: int, high: int = MOST) -> Rule:
    return Rule(int, lambda v: low <= v <= high, f"a whole number from {low} to {high:,}")


def _number(low: float, high: float = math.inf) -> Rule:
    words = (
        f"a number from {low} to {high}" if high < math.inf else f"a finite number, {low} or more"
    )
    return Rule(float, lambda v: low <= v <= high and v < math.inf, words)


def _words(*known: str) -> Rule:
    return Rule(str, known.__contains__, f"{', '.join(known[:-1])} or {known[-1]}")


def _or_null(rule: Rule) -> Rule:
    return rule._replace(words=f"{rule.words} or null", null=True)


_positive = Rule(float, lambda v: 0 < v < math.inf, "a finite number, more than 0")
_share = Rule(float, lambda v: 0 <= v < 1, "a number, 0 or more and less than 1")
_flag = Rule(bool, lambda v: True, "true or false")
_text = Rule(str, lambda v: v not in ("", "???"), "text")  # free: a path, a caption, a label
_texts = Rule(
    list, lambda v: all(isinstance(x, str) and _text.accepts(x) for x in v), "a list such as [a,b]"
)
_tag = Rule(
    str,
    lambda v: bool(NAME.fullmatch(v)) and len(v.encode()) <= TAG_BYTES,
    f"letters, digits and . _ + - (it names a folder), at most {TAG_BYTES} bytes",
)

RULES = (  # patterns of keys, and what these accept; the first that fits. Every key has one.
    (
        " ".join(f"data.benchmarks.*.{key}" for key in ("frames", "stride", "clips", "crops")),
        _or_null(_whole(1)),
    ),
    ("data.benchmarks.*.only", _or_null(_text)),
    ("data.benchmarks.*.*", _text),
    ("seed data.seed", _whole(0)),
    ("tag source scale ablation", _tag),
    ("name out runs data.root data.shards data.tasks.*", _text),
    (
        "weights clip task data.retrieval data.tokenizer lit.last_corpus speaking.lm",
        _or_null(_text),
    ),
    ("texts data.zero_shot beyond.layers adapt.tasks", _texts),
    ("model.text_norm", _words("pre", "primer_hybrid")),
    ("model.joint", _flag),
    ("model.aux_layers", _whole(0)),
    ("model.*", _whole(1)),
    ("speaking.share speaking.apart.*", _number(0, 1)),
    ("speaking.mlp", _flag),
    ("speaking.captions.*", _number(0)),
    (
        "speaking.models.*.* speaking.queries speaking.heads speaking.vocabulary speaking.length speaking.reading.length speaking.most speaking.bucket",
        _whole(1),
    ),
    ("data.kind", _words("world", "folder", "webdataset")),
    ("data.corpora.*", _number(0)),
    ("data.mixing", _words("alternating", "plain")),
    ("data.clips data.images *.candidates", _whole(1)),
    ("data.families.*.*", _whole(1)),
    ("data.clip_frames data.shard_size data.max_pixels", _whole(1)),
    ("data.resolution", _whole(2, 8192)),
    ("data.fps", Rule(float, lambda v: 0 < v <= 1000, "a number, more than 0 and at most 1000")),
    ("data.vocabulary", _whole(1, 10_000_000)),
    ("data.memory", _number(0)),
    ("data.max_skipped_fraction", _number(0, 1)),
    ("optim.optimiser", _words("adafactor", "adamw")),
    ("optim.b1 *.drop_ratio *.mask_ratio lit.last_share", _share),
    ("optim.b2 stage2.follows stage1.wrong_captions stage1.masked", _or_null(_share)),
    ("stage2.learning_rate", _or_null(_positive)),
    ("optim.clip *.learning_rate", _positive),
    ("*.every optim.checkpoint_every *.accumulate", _whole(1)),
    ("hardware.dtype", _words("float32", "bfloat16", "auto")),
    ("hardware.platform", _words("cpu", "gpu", "tpu")),
    ("hardware.attention", _words("plain", "splash", "tokamax")),
    ("hardware.threads", _whole(1, 1024)),
    ("hardware.workers", _whole(0, 1024)),
    ("*.batch *.image_batch *.steps", _whole(1)),
    ("grounding.keep", Rule(float, lambda v: 0 < v < 1, "a number, more than 0 and less than 1")),
    ("grounding.frames grounding.clips grounding.*_layers grounding.trials.seeds", _whole(1)),
    ("*.warmup *.shuffle_warmup *.loss_chunk", _whole(0)),
    ("*.weight_decay *.final_learning_rate stage1.captions", _number(0)),
    ("probe.adaptation", _words("frozen", "mlap", "adapter", "end_to_end")),
    ("stage2.mask", _words("bevt", "tube", "random")),
    ("stage2.targets", _words("tokens", "pixels")),
    ("scoring.part", _words("test", "validation")),
    ("stage2.snapshots", _whole(0, 1000)),
    ("*.times", _positive),
    ("stage1.frames", _or_null(_whole(1))),
    ("science.stride", _whole(1)),
    ("adapt.layer_decay", _number(0, 1)),
    ("hardware.remat optim.tensorboard stage1.* stage2.* science.specialist science.mlap", _flag),
    ("probe.shots probe.width eval.frames beyond.train beyond.test", _or_null(_whole(1))),
    ("adapt.train adapt.validation adapt.test adapt.blocks", _or_null(_whole(1))),
    ("probe.heads *.epochs probe.seeds ceiling.probes adapt.inner", _whole(1)),
    ("window stride gtad.window gtad.stride", _positive),
    ("gtad.* boxes.* views.*", _whole(1)),
)
# Sections whose keys are names of yours; given as {name: ...}.
OPEN = (
    *("data.corpora", "data.tasks", "data.families", "data.benchmarks"),
    *("speaking.models", "speaking.captions", "speaking.apart"),
)
AT_MOST = (
    ("stage1.warmup", "stage1.steps"),
    ("stage2.warmup", "stage2.steps"),
    ("lit.warmup", "lit.steps"),
    ("speaking.warmup", "speaking.steps"),
    ("speaking.reading.warmup", "speaking.reading.steps"),
    ("stage2.shuffle_warmup", "stage2.steps"),
    ("grounding.warmup", "grounding.trials.steps"),
)
DIVISIBLE = (
    ("model.size", "model.patch"),
    ("model.width", "model.heads"),
    ("model.pooler_inner", "model.heads"),
    ("probe.width", "probe.heads"),
    ("model.decoder.width", "model.decoder.heads"),
    ("optim.checkpoint_every", "optim.every"),
    ("optim.checkpoint_every", "lit.every"),
    ("optim.checkpoint_every", "speaking.every"),
    ("stage1.batch", "stage1.loss_chunk"),
    ("stage1.image_batch", "stage1.loss_chunk"),
    ("lit.batch", "lit.loss_chunk"),
    ("lit.image_batch", "lit.loss_chunk"),
    ("stage1.batch", "optim.accumulate"),
    ("stage1.image_batch", "optim.accumulate"),
    ("stage2.batch", "optim.accumulate"),
    ("lit.batch", "optim.accumulate"),
    ("adapt.batch", "adapt.accumulate"),
    ("lit.image_batch", "optim.accumulate"),
)


def of(key: str) -> Rule | None:
    """The rule of `stage2.mask` or any other key; None for a key that has none yet."""
    return next(
        (rule for keys, rule in RULES if any(fnmatch(key, one) for one in keys.split())), None
    )


def fits(value: object, rule: Rule) -> bool:
    """True if `value` is of the rule's kind (1 is a number, true is not) and within its range."""
    if value is None:
        return rule.null
    kinds = (int, float) if rule.kind is float else (rule.kind,)
    return type(value) in kinds and rule.accepts(value)

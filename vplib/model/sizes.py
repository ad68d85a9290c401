"""The sizes of a model: what a file of `conf/model` says, or the arrays of a weights file show."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import yaml

from vplib import paths


@dataclass(frozen=True)
class DecoderSizes:
    """Of both decoders of stage 2."""

    width: int
    layers: int
    heads: int
    mlp: int


@dataclass(frozen=True)
class Sizes:
    """Names and order as in `conf/model`; 0 stands for what a model does not have or an array does
    not show.

    The text encoder has the width and heads of the video encoder and an MLP of four times the
    width, as released.
    """

    size: int  # pixels, height and width, in training
    patch: int
    frames: int  # length of the table of temporal positions
    width: int
    spatial_layers: int
    temporal_layers: int
    heads: int
    mlp: int
    text_layers: int = 0
    text_norm: str = "pre"  # or primer_hybrid: a LayerNorm before and after each part of a block
    text_length: int = 0  # tokens of a caption, which no parameter depends on
    aux_layers: int = 0  # before the attention pooler
    pooler_inner: int = 0  # summed width of the pooler's heads
    decoder: DecoderSizes | None = None
    vocabulary: int = 0  # pieces of the tokeniser; a video-text model has some
    classes: int = 0  # a classifier has some
    adapter: int = 0  # width of the bottleneck beside each MLP of the video encoder
    joint: bool = False  # all blocks see all tokens of a clip; an array shows them as spatial ones

    @classmethod
    def of(cls, model: Mapping, *, vocabulary: int = 0) -> "Sizes":
        """The sizes of a `conf/model` file (its content), with the tokeniser's number of pieces."""
        known = {field.name: model[field.name] for field in fields(cls) if field.name in model}
        known["decoder"] = DecoderSizes(**model["decoder"])
        return cls(**known | {"vocabulary": vocabulary})

    @property
    def layers(self) -> int:
        """Blocks of the video encoder."""
        return self.spatial_layers + self.temporal_layers

    @property
    def grid(self) -> int:
        """Places along one side of a frame."""
        return self.size // self.patch

    @property
    def places(self) -> int:
        """Places, hence tokens, of one frame."""
        return self.grid**2


def decoder_for(width: int) -> DecoderSizes:
    """The decoders for an encoder whose weights alone are known, which say nothing of them: those
    of the model in `conf/model` that is nearest in width.
    """
    known = [
        yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in sorted((paths.CONF / "model").glob("*.yaml"))
    ]
    return Sizes.of(min(known, key=lambda model: abs(model["width"] - width))).decoder

"""Weights as a folder of Hugging Face `transformers`: `python -m vplib.export WEIGHTS FOLDER`.

    VideoPrismVisionModel.from_pretrained(FOLDER)               a video encoder
    VideoPrismClipModel.from_pretrained(FOLDER)                 a video-text model
    VideoPrismForVideoClassification.from_pretrained(FOLDER)    a classifier

WEIGHTS is what `checkpoints.load` takes. The PyTorch model gives our outputs (tested to 1e-4), its
texts up to 64 tokens. Two things differ between the codes. `transformers` computes its text
positions with other timescales (10,000^(-2i/D) instead of the released 10,000^(-i/(D/2-1)), which
moves the texts of toy models by 0.01, cosine 0.9997), so the folder stores ours, as that buffer is
loaded, too. Its pooler is as wide as its MLP; a narrower one is filled with zeros, and its queries
scaled so that attention stays the same.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from vplib import cards, environment, files
from vplib.files import FileError
from vplib.model import checkpoints
from vplib.model.checkpoints import CheckpointError
from vplib.model.encoders import sinusoids
from vplib.model.sizes import Sizes
from vplib.shipped import WEIGHTS

TEXT_LENGTH = 64  # positions that are stored, of the released models

# Parts of the released paths and what transformers calls them; the longest that fits, from the
# left. {} is the layer.
NAMES = {
    "encoder": "vision_model",  # a classifier's
    "vision_encoder": "video_model.vision_model",
    "patch_projection/linear": "spatial_embeddings.patch_embeddings.projection",
    "spatial_pos_emb/emb_var": "spatial_embeddings.position_embeddings",
    "spatial_encoder/transformers_stack/x_layers": "spatial_layers.{}",
    "spatial_ln": "layernorm1",
    "temporal_pos_emb/emb_var": "temporal_embeddings.position_embeddings",
    "temporal_encoder/transformers_stack/x_layers": "temporal_layers.{}",
    "temporal_ln": "layernorm2",
    "auxiliary_encoder/transformers_stack/x_layers": "video_model.auxiliary_layers.{}",
    "contrastive_vision_pooler": "video_model",
    "atten_pooler": "",
    "pooling_attention_query": "head.pooling_attention_query",
    "pooling_attention": "head",
    "per_dim_scale/per_dim_scale": "per_dim_scale",
    "pooling_attention_layer_norm": "head_layernorm",
    "projection/linear": "classifier",
    "text_encoder": "text_model",
    "token_emb/emb_var": "embeddings.token_embedding.weight",
    "cls_emb": "embeddings.cls_emb",
    "unimodal_transformer/x_layers": "layers.{}",
    "unimodal_ln": "layernorm",
    "layer_norm": "layernorm_before",
    "self_attention": "attention",
    "ff_layer/layer_norm": "layernorm_after",
    "ff_layer/ffn_layer1/linear": "mlp.fc1",
    "ff_layer/ffn_layer2/linear": "mlp.fc2",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "post": "o_proj",
    "scale": "weight",
    "kernel": "weight",
    "w": "weight",
    "bias": "bias",
    "b": "bias",
}


def translate(path: str) -> str:
    """The name in `transformers` of a released path, without its `params/`."""
    parts, rest = [], path
    while rest:
        known = [key for key in NAMES if f"{rest}/".startswith(f"{key}/")]
        if not known:
            raise CheckpointError(
                f"{path} has no place in transformers' VideoPrism: such a model cannot be exported"
            )
        key = max(known, key=len)
        parts.append(NAMES[key])
        rest = rest[len(key) + 1 :]
    return ".".join(filter(None, parts))


def _theirs(path: str, x: np.ndarray) -> np.ndarray:
    """One layer's array in their axes: matrices have outputs first."""
    if path.endswith("patch_projection/linear/kernel"):
        patch = round((len(x) / 3) ** 0.5)
        # D C 1 row column
        return x.T.reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)[:, :, None]
    if path.endswith("post/w"):
        return x.reshape(len(x), -1)
    if path.endswith(("/w", "/kernel")):
        return x.reshape(len(x), -1).T
    if path.endswith(("pos_emb/emb_var", "pooling_attention_query")):
        return x[None]
    return x.reshape(-1) if path.endswith("/b") else x


def _ours(path: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_theirs`."""
    if path.endswith("patch_projection/linear/kernel"):
        return x[:, :, 0].transpose(0, 2, 3, 1).reshape(len(x), -1).T
    return (x.T if path.endswith(("/w", "/kernel")) and not path.endswith("post/w") else x).reshape(
        shape
    )


def arrays(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Released arrays under the names and in the axes of `transformers`."""
    named = {}
    for name, value in weights.items():
        path = name.removeprefix("params/")
        target = translate(path)
        if "{}" in target:
            named |= {target.format(i): _theirs(path, layer) for i, layer in enumerate(value)}
        else:
            named[target] = _theirs(path, value)
    return {name: np.ascontiguousarray(value) for name, value in named.items()}


def released(
    named: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The inverse of `arrays`: names of `transformers` to released ones, in `shapes`."""
    weights = {}
    for name, shape in shapes.items():
        path = name.removeprefix("params/")
        target = translate(path)
        if "{}" in target:
            layers = [_ours(path, named[target.format(i)], shape[1:]) for i in range(shape[0])]
            weights[name] = np.stack(layers)
        else:
            weights[name] = np.ascontiguousarray(_ours(path, named[target], shape))
    return weights


def widen(weights: dict[str, np.ndarray], inner: int) -> dict[str, np.ndarray]:
    """The same model with a pooler of `inner` width: zeros fill up each head, queries grow as the
    square root.

    Raises CheckpointError when the pooler is wider than that.
    """
    wide = dict(weights)
    for name, value in weights.items():
        if "/pooling_attention/" not in name or name.endswith("post/b"):
            continue
        size = value.shape[-1]
        heads = next(
            v.shape[1] for k, v in weights.items() if k.endswith("/pooling_attention/query/w")
        )
        more = inner // heads - size
        if more < 0 or inner % heads:
            raise CheckpointError(
                f"a pooler of width {heads * size} does not fit into transformers' VideoPrism, whose is "
                f"as wide as its MLP ({inner}): such a model cannot be exported"
            )
        if "/query/" in name:
            value = value * np.float32((inner / heads / size) ** 0.5)
        wide[name] = np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, more)])
    return wide


def configuration(sizes: Sizes) -> dict:
    """The content of config.json for a model of these sizes."""
    vision = dict(
        model_type="videoprism_vision_model",
        image_size=sizes.size,
        num_frames=sizes.frames,
        tubelet_size=[1, sizes.patch, sizes.patch],
        hidden_size=sizes.width,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.mlp,
        num_spatial_layers=sizes.spatial_layers,
        num_temporal_layers=sizes.temporal_layers,
        num_auxiliary_layers=sizes.aux_layers,
    )
    if sizes.vocabulary:
        text = dict(
            model_type="videoprism_text_model",
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.width,
            num_attention_heads=sizes.heads,
            intermediate_size=4 * sizes.width,
            num_hidden_layers=sizes.text_layers,
            max_position_embeddings=TEXT_LENGTH,
        )
        return dict(
            model_type="videoprism",
            architectures=["VideoPrismClipModel"],
            vision_config=vision,
            text_config=text,
        )
    if sizes.classes:
        labels = {str(i): f"LABEL_{i}" for i in range(sizes.classes)}
        return vision | dict(
            architectures=["VideoPrismForVideoClassification"],
            id2label=labels,
            label2id={label: int(i) for i, label in labels.items()},
        )
    return vision | dict(architectures=["VideoPrismVisionModel"])


def export(name: str | Path, folder: str | Path) -> None:
    """Write `folder` with config.json, model.safetensors and a model card, README.md; it appears
    complete or not at all.

    `name` is what `checkpoints.load` takes. Raises CheckpointError as `load` does, when the folder
    exists, for a model that transformers cannot hold (LvT-g's text norm), and without the package
    safetensors; FileError when it cannot be written.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise CheckpointError(
            "the package safetensors is missing: pip install -e '.[torch]'"
        ) from None
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} exists: give a folder that does not, or delete it")
    weights = checkpoints.flatten(checkpoints.load(name))
    sizes = checkpoints.infer(weights, name=str(name))
    named = arrays(widen(weights, sizes.mlp))
    card = cards.exported(name, weights, sizes, WEIGHTS)
    if sizes.vocabulary:
        positions = sinusoids(TEXT_LENGTH, sizes.width)
        named["text_model.embeddings.position_embedding"] = np.asarray(positions)
        named["text_model.embeddings.position_ids"] = np.arange(TEXT_LENGTH)[None]
    part = files.folder(folder.with_name(f".{folder.name}.{os.getpid()}.part"))
    try:
        with files.explained(folder):
            save_file(named, part / "model.safetensors", metadata={"format": "pt"})
            text = json.dumps(configuration(sizes), indent=2) + "\n"
            (part / "config.json").write_text(text, encoding="utf-8")
            (part / cards.CARD).write_text(card, encoding="utf-8")
            os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def main() -> None:
    environment.write_any_letter()
    if len(sys.argv) != 3:
        sys.exit("usage: python -m vplib.export WEIGHTS FOLDER")
    try:
        export(*sys.argv[1:])
    except (CheckpointError, FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

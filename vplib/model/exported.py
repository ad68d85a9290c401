"""Weights as Hugging Face `transformers` names and lays them out, and a folder of them read back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from flax import nnx

from vplib.model.encoders import shapes
from vplib.model.sizes import Sizes

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
            raise ValueError(
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


def read(folder: Path) -> dict[str, np.ndarray]:
    """The weights of a folder that `vplib.export` wrote, under the released names.

    A classifier's folder gives its encoder: its pooler was filled up with zeros, as `transformers`
    wants it. Raises ValueError, with the end of a sentence, without the package safetensors, and
    what JSON, safetensors or NumPy raise for what is no such folder.
    """
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise ValueError(
            "the package safetensors is missing, type pip install -e '.[torch]'"
        ) from None
    sizes = _sizes(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    named = load_file(folder / "model.safetensors")
    if not sizes.vocabulary:
        named = {name.removeprefix("vision_model."): value for name, value in named.items()}
    flat = nnx.to_flat_state(nnx.state(shapes(sizes), nnx.Param))
    wanted = {"params/" + "/".join(map(str, path)): value.shape for path, value in flat}
    return released(named, wanted)


def _sizes(told: dict) -> Sizes:
    """The inverse of `configuration`, a classifier as its encoder."""
    vision, text = told.get("vision_config", told), told.get("text_config")
    sizes = Sizes(
        size=vision["image_size"],
        patch=vision["tubelet_size"][1],
        frames=vision["num_frames"],
        width=vision["hidden_size"],
        spatial_layers=vision["num_spatial_layers"],
        temporal_layers=vision["num_temporal_layers"],
        heads=vision["num_attention_heads"],
        mlp=vision["intermediate_size"],
    )
    if text is None:
        return sizes
    return replace(
        sizes,
        text_layers=text["num_hidden_layers"],
        aux_layers=vision["num_auxiliary_layers"],
        pooler_inner=vision["intermediate_size"],
        vocabulary=text["vocab_size"],
    )

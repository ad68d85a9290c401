"""Writes golden/videotext.npz: random parameters, inputs and outputs of another implementation of the same model.

The other implementation is VideoPrism of Hugging Face `transformers`, in PyTorch. It needs an environment of its own:

    python -m venv golden-env && golden-env/bin/pip install torch==2.13.0 transformers==5.23.0
    golden-env/bin/python tests/make_goldens.py

Parameters are saved in the released layout (`params/...`, layers on axis 0); biases, norms and scales are not zero on
purpose, and queries are large enough for the cap on attention logits to matter. `tests/test_encoders.py` compares.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import VideoPrismClipModel, VideoPrismConfig

WIDTH, HEADS, MLP, PATCH, SIZE, FRAMES, VOCABULARY = 16, 2, 64, 4, 12, 3, 40
CASES = {  # clips, frames, pixels
    "train_shape": (2, FRAMES, SIZE),
    "more_frames": (1, 5, SIZE),
    "fewer_frames": (1, 2, SIZE),
    "other_size": (1, FRAMES, 20),
    "smaller_size": (1, FRAMES, 8),
}


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Every parameter: matrices with variance 1 / inputs (queries and keys 6 times that), the rest normal and small."""
    for name, value in model.named_parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 100
        gain = 6.0 if ("q_proj" in name or "k_proj" in name) and value.ndim > 1 else 1.0
        if "embedding" in name or "cls_emb" in name or "pooling_attention_query" in name:
            fan_in = 4
        value.data = torch.tensor(rng.normal(size=tuple(value.shape)) * (gain / fan_in) ** 0.5, dtype=torch.float32)


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Released positions of the text encoder: `transformers` spaces the timescales a little differently."""
    rates = 10_000 ** -(torch.arange(width // 2) / (width // 2 - 1))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def linear(weights: dict, source: str, target: str) -> dict:
    return {f"{target}/linear/kernel": weights[f"{source}.weight"].T, f"{target}/linear/bias": weights[f"{source}.bias"]}


def norm(weights: dict, source: str, target: str) -> dict:
    return {f"{target}/scale": weights[f"{source}.weight"], f"{target}/bias": weights[f"{source}.bias"]}


def attention(weights: dict, source: str, target: str) -> dict:
    named = {}
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        named[f"{target}/{ours}/w"] = weights[f"{source}.{theirs}.weight"].T.reshape(WIDTH, HEADS, -1)
        named[f"{target}/{ours}/b"] = weights[f"{source}.{theirs}.bias"].reshape(HEADS, -1)
    named[f"{target}/post/w"] = weights[f"{source}.o_proj.weight"].reshape(WIDTH, HEADS, -1)
    return named | {f"{target}/post/b": weights[f"{source}.o_proj.bias"]}


def stack(weights: dict, source: str, target: str) -> dict:
    """All layers `source.0`, `source.1`, ... stacked on axis 0."""
    layers = []
    while f"{source}.{len(layers)}.mlp.fc1.bias" in weights:
        at = f"{source}.{len(layers)}"
        layers.append(norm(weights, f"{at}.layernorm_before", "layer_norm")
                      | attention(weights, f"{at}.attention", "self_attention")
                      | norm(weights, f"{at}.layernorm_after", "ff_layer/layer_norm")
                      | linear(weights, f"{at}.mlp.fc1", "ff_layer/ffn_layer1")
                      | linear(weights, f"{at}.mlp.fc2", "ff_layer/ffn_layer2"))  # fmt: skip
    return {f"{target}/x_layers/{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}


def released(model: VideoPrismClipModel) -> dict[str, np.ndarray]:
    """The model's parameters under the released names."""
    w = {name: value.detach().numpy() for name, value in model.named_parameters()}
    video, vision, text = "video_model", "video_model.vision_model", "text_model"
    patches = w[f"{vision}.spatial_embeddings.patch_embeddings.projection.weight"]  # D C 1 row column
    pooler = "contrastive_vision_pooler"
    named = {
        "vision_encoder/patch_projection/linear/kernel": patches[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, WIDTH),
        "vision_encoder/patch_projection/linear/bias": w[f"{vision}.spatial_embeddings.patch_embeddings.projection.bias"],
        "vision_encoder/spatial_pos_emb/emb_var": w[f"{vision}.spatial_embeddings.position_embeddings"][0],
        "vision_encoder/temporal_pos_emb/emb_var": w[f"{vision}.temporal_embeddings.position_embeddings"][0],
        f"{pooler}/pooling_attention_query": w[f"{video}.head.pooling_attention_query"][0],
        f"{pooler}/pooling_attention/per_dim_scale/per_dim_scale": w[f"{video}.head.per_dim_scale"],
        "text_encoder/token_emb/emb_var": w[f"{text}.embeddings.token_embedding.weight"],
        "text_encoder/cls_emb": w[f"{text}.embeddings.cls_emb"],
    }
    named |= stack(w, f"{vision}.spatial_layers", "vision_encoder/spatial_encoder/transformers_stack")
    named |= norm(w, f"{vision}.layernorm1", "vision_encoder/spatial_ln")
    named |= stack(w, f"{vision}.temporal_layers", "vision_encoder/temporal_encoder/transformers_stack")
    named |= norm(w, f"{vision}.layernorm2", "vision_encoder/temporal_ln")
    named |= stack(w, f"{video}.auxiliary_layers", "auxiliary_encoder/transformers_stack")
    named |= attention(w, f"{video}.head", f"{pooler}/pooling_attention")
    named |= norm(w, f"{video}.head_layernorm", f"{pooler}/pooling_attention_layer_norm")
    named |= stack(w, f"{text}.layers", "text_encoder/unimodal_transformer")
    named |= norm(w, f"{text}.layernorm", "text_encoder/unimodal_ln")
    assert sum(value.size for value in named.values()) == sum(value.size for value in w.values())
    return {f"params/{name}": np.ascontiguousarray(value) for name, value in named.items()}


def main() -> None:
    rng = np.random.default_rng(0)
    vision = dict(image_size=SIZE, num_frames=FRAMES, tubelet_size=[1, PATCH, PATCH], hidden_size=WIDTH,
                  num_attention_heads=HEADS, intermediate_size=MLP, num_spatial_layers=2, num_temporal_layers=2,
                  num_auxiliary_layers=1)  # fmt: skip
    text = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=2,
                num_attention_heads=HEADS, max_position_embeddings=6)  # fmt: skip
    config = VideoPrismConfig(vision_config=vision, text_config=text)
    model = VideoPrismClipModel._from_config(config, attn_implementation="eager").eval()  # the only one that caps logits
    randomise(model, rng)
    model.text_model.embeddings.position_embedding = sinusoids(6, WIDTH)

    arrays = released(model)
    with torch.no_grad():
        for case, (clips, frames, size) in CASES.items():
            video = rng.random((clips, frames, size, size, 3), dtype=np.float32)
            given = dict(pixel_values_videos=torch.tensor(video).permute(0, 1, 4, 2, 3), interpolate_pos_encoding=True)
            arrays[f"{case}/video"] = video
            arrays[f"{case}/tokens"] = model.video_model.vision_model(**given).last_hidden_state.numpy()
            arrays[f"{case}/video_embedding"] = model.video_model(**given).pooler_output[:, 0].numpy()
        ids = rng.integers(1, VOCABULARY, (3, 6)).astype(np.int32)
        keep = np.arange(6) < np.array([[6], [4], [1]])
        arrays |= {"text/ids": ids * keep, "text/keep": keep}
        output = model.text_model(torch.tensor(ids * keep), attention_mask=torch.tensor(keep).long())
        arrays["text/text_embedding"] = output.pooler_output.numpy()
    path = Path(__file__).parent / "golden" / "videotext.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

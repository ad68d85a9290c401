"""Writes golden/*.npz: random parameters, and inputs and outputs of another implementation.

The other implementation is VideoPrism of Hugging Face `transformers`, in PyTorch. It needs an
environment of its own:

    python -m venv golden-env && golden-env/bin/pip install -e '.[torch]'
    golden-env/bin/python tests/make_goldens.py

Parameters are saved in the released layout (`params/...`, layers on axis 0; names by the table of
`vplib.export`, read backwards); biases, norms and scales are not zero on purpose, and queries are
large enough for the cap on attention logits to matter. `tests/test_encoders.py` compares.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from flax import nnx
from transformers import VideoPrismClipModel, VideoPrismConfig, VideoPrismForVideoClassification

from vplib.model import checkpoints, exported
from vplib.model.encoders import sinusoids
from vplib.model.sizes import Sizes

SIZES = Sizes(
    size=12,
    patch=4,
    frames=3,
    width=16,
    spatial_layers=2,
    temporal_layers=2,
    heads=2,
    mlp=64,
)
CASES = {  # clips, frames, pixels
    "train_shape": (2, 3, 12, 12),
    "more_frames": (1, 5, 12, 12),
    "fewer_frames": (1, 2, 12, 12),
    "other_size": (1, 3, 20, 20),
    "smaller_size": (1, 3, 8, 8),
    "wide": (1, 3, 8, 20),
}


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Every parameter: matrices with variance 1 / inputs (queries and keys 6 times that), the rest
    normal and small."""
    for name, value in model.named_parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 100
        gain = 6.0 if ("q_proj" in name or "k_proj" in name) and value.ndim > 1 else 1.0
        if "embedding" in name or "cls_emb" in name or "pooling_attention_query" in name:
            fan_in = 4
        value.data = torch.tensor(
            rng.normal(size=tuple(value.shape)) * (gain / fan_in) ** 0.5, dtype=torch.float32
        )


def released(model: torch.nn.Module, sizes: Sizes) -> dict[str, np.ndarray]:
    """The parameters of the PyTorch model under the released names of a model of these sizes."""
    flat = nnx.to_flat_state(nnx.state(checkpoints.shapes(sizes), nnx.Param))
    shapes = {"params/" + "/".join(map(str, path)): value.shape for path, value in flat}
    named = {name: value.detach().numpy() for name, value in model.named_parameters()}
    weights = exported.released(named, shapes)
    assert sum(value.size for value in weights.values()) == sum(
        value.size for value in named.values()
    )
    return weights


def given(video: np.ndarray) -> dict:
    return dict(
        pixel_values_videos=torch.tensor(video).permute(0, 1, 4, 2, 3),
        interpolate_pos_encoding=True,
    )


def save(name: str, arrays: dict[str, np.ndarray]) -> None:
    path = Path(__file__).parent / "golden" / name
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1000:.0f} kB")


def video_text(rng: np.random.Generator) -> dict[str, np.ndarray]:
    sizes = replace(SIZES, text_layers=2, aux_layers=1, pooler_inner=64, vocabulary=40)
    config = VideoPrismConfig(**exported.configuration(sizes))
    model = VideoPrismClipModel._from_config(
        config, attn_implementation="eager"
    ).eval()  # the only one that caps logits
    randomise(model, rng)
    positions = sinusoids(
        exported.TEXT_LENGTH, sizes.width
    )  # the released ones: see vplib/export.py
    model.text_model.embeddings.position_embedding = torch.tensor(np.asarray(positions))

    arrays = released(model, sizes)
    for case, (clips, *shape) in CASES.items():
        video = rng.random((clips, *shape, 3), dtype=np.float32)
        arrays[f"{case}/video"] = video
        arrays[f"{case}/tokens"] = model.video_model.vision_model(
            **given(video)
        ).last_hidden_state.numpy()
        arrays[f"{case}/video_embedding"] = (
            model.video_model(**given(video)).pooler_output[:, 0].numpy()
        )
    ids = rng.integers(1, sizes.vocabulary, (3, 6)).astype(np.int32)
    keep = np.arange(6) < np.array([[6], [4], [1]])
    output = model.text_model(torch.tensor(ids * keep), attention_mask=torch.tensor(keep).long())
    return arrays | {
        "text/ids": ids * keep,
        "text/keep": keep,
        "text/text_embedding": output.pooler_output.numpy(),
    }


def classifier(rng: np.random.Generator) -> dict[str, np.ndarray]:
    # transformers' pooler is as wide as its MLP, the released one as the model
    sizes = replace(SIZES, mlp=SIZES.width, classes=5)
    model = VideoPrismForVideoClassification._from_config(
        VideoPrismForVideoClassification.config_class(**exported.configuration(sizes)),
        attn_implementation="eager",
    ).eval()
    randomise(model, rng)
    arrays = released(model, sizes)
    for case in ("train_shape", "more_frames"):
        clips, *shape = CASES[case]
        arrays[f"{case}/video"] = rng.random((clips, *shape, 3), dtype=np.float32)
        arrays[f"{case}/logits"] = model(**given(arrays[f"{case}/video"])).logits[:, 0].numpy()
    return arrays


def main() -> None:
    rng = np.random.default_rng(0)
    with torch.no_grad():
        save("videotext.npz", video_text(rng))
        save("classifier.npz", classifier(rng))


if __name__ == "__main__":
    main()

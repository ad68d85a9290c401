"""What a training costs: operations of its matrix products, two for each multiply-add.

Forward once, backward twice as much, of a frozen teacher forward alone. Baselines of equal compute
take as many steps as cost what both stages do: `times` in their overlays, which a test compares.
"""

from collections.abc import Mapping
from dataclasses import replace

from vplib.method.masking import visible_count
from vplib.model.cost import encoder_operations, head_operations, stack_operations
from vplib.model.sizes import Sizes


def stage1(cfg: Mapping, *, images: float) -> float:
    """Of all steps, as the configuration of `20_stage1` has them; `images`: the share of batches
    that are of images.
    """
    sizes, settings = Sizes.of(cfg["model"]), cfg["stage1"]
    kinds = (
        (1 - images, settings["frames"] or sizes.frames, settings["batch"]),
        (images, 1, settings["image_batch"]),
    )
    step = sum(
        share * stage1_step(sizes, settings["drop_ratio"], frames=frames, batch=batch)
        for share, frames, batch in kinds
    )
    if settings.get("masked") is not None:  # clips once more, masked
        own = dict(
            mask="bevt", mask_ratio=settings["masked"], targets="pixels", image_teacher=False
        )
        own |= dict(local_loss=True, global_loss=False, visible_only=False, batch=settings["batch"])
        step += (1 - images) * stage2_step(sizes, own)
    return round(settings["times"] * settings["steps"]) * step


def stage2(cfg: Mapping) -> float:
    """Of all steps, as the configuration of `30_stage2` has them."""
    settings = cfg["stage2"]
    steps = round(settings["times"] * settings["steps"])
    return steps * stage2_step(Sizes.of(cfg["model"]), settings)


def stage1_step(sizes: Sizes, drop_ratio: float, *, frames: int, batch: int) -> float:
    """Of a batch of clips of so many `frames`, of which 1, an image, has no place dropped."""
    places, width = sizes.places, sizes.width
    if frames > 1:
        places = visible_count(places, drop_ratio)
    words = sizes.text_length + 1
    clip = encoder_operations(replace(sizes, frames=frames), places, tube=True)
    clip += head_operations(frames * places, width)
    text = stack_operations(sizes.text_layers, words, words, width, 4 * width)
    return 3 * batch * (clip + text + 2 * batch * width)


def stage2_step(sizes: Sizes, settings: Mapping) -> float:
    """Of a batch, with the section `stage2` of a configuration."""
    visible = visible_count(sizes.places, settings["mask_ratio"])
    seen, tokens = sizes.frames * visible, sizes.frames * sizes.places
    student = encoder_operations(sizes, visible, tube=settings["mask"] == "tube")
    teacher = 0.0
    if settings["local_loss"]:
        pixels = settings["targets"] == "pixels"
        outputs = 3 * sizes.patch**2 if pixels else sizes.width
        student += _decoder(sizes, seen if settings["visible_only"] else tokens, outputs)
    if settings["global_loss"]:
        student += _decoder(sizes, seen, sizes.width) + head_operations(seen, sizes.width)
        teacher += head_operations(tokens, sizes.width)
    if settings["global_loss"] or settings["targets"] == "tokens":
        if settings["image_teacher"]:
            one = replace(sizes, frames=1)
            teacher += sizes.frames * encoder_operations(one, sizes.places)
        else:
            teacher += encoder_operations(sizes, sizes.places)
    return settings["batch"] * (3 * student + teacher)


def _decoder(sizes: Sizes, tokens: int, outputs: int) -> float:
    own = sizes.decoder
    return (
        stack_operations(own.layers, tokens, tokens, own.width, own.mlp)
        + 2 * tokens * (sizes.width + outputs) * own.width
    )

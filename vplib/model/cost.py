"""Operations of one forward pass, and what an adaptation costs: two for each multiply-add.

Source: VideoPrism tables 13 to 16, whose column of trainable FLOPs these formulas give back, but
for the baselines' adapters (tested).
"""

from vplib.model.sizes import Sizes

MLAP_LAYERS = 4


def stack_operations(layers: int, tokens: int, keys: int, width: int, hidden: int) -> float:
    """Of a stack's matrix products when each token sees `keys` tokens."""
    return layers * tokens * (8 * width**2 + 4 * width * hidden + 4 * keys * width)


def encoder_operations(sizes: Sizes, places: int, *, tube: bool = False) -> float:
    """Of one clip with `places` tokens a frame, on which its temporal attention depends unless they
    are a `tube`, the same in every frame: see `VideoEncoder._by_place`."""
    tokens, width, hidden = sizes.frames * places, sizes.width, sizes.mlp
    if sizes.joint:
        patches = 2 * tokens * 3 * sizes.patch**2 * width
        return patches + stack_operations(sizes.layers, tokens, tokens, width, hidden)
    keys = sizes.frames if tube or places == sizes.places else 3 * sizes.frames
    return (
        2 * tokens * 3 * sizes.patch**2 * width
        + stack_operations(sizes.spatial_layers, tokens, places, width, hidden)
        + stack_operations(sizes.temporal_layers, tokens, keys, width, hidden)
    )


def head_operations(tokens: int, width: int) -> float:
    """Of one cross-attention layer with one query, as published: keys and values are formed and an
    MLP of four times the width follows. Our heads do less: they form neither (`AttentionPool`).
    """
    on_tokens = tokens * (4 * width**2 + 2 * width + 4 * width + 4 * width)
    return on_tokens + 4 * width**2 + 16 * width**2


def trainable_operations(adaptation: str, sizes: Sizes, inner: int) -> float:
    """Of what an adaptation trains, for one clip of `sizes.frames` frames; `inner` is the width of
    adapters.

    Raises ValueError for an unknown adaptation.
    """
    tokens, width = sizes.frames * sizes.places, sizes.width
    head = head_operations(tokens, width)
    layers = sizes.layers
    each = 4 * width * inner + 3 * width + 2 * inner  # biases, ReLU, scale and sum, too
    costs = {
        "frozen": head,
        "mlap": MLAP_LAYERS * head,
        "adapter": layers * tokens * each + head,
        "end_to_end": encoder_operations(sizes, sizes.places) + head,
    }
    if adaptation not in costs:
        raise ValueError(f"{adaptation} is unknown: choose one of {', '.join(costs)}")
    return costs[adaptation]

"""Which tokens the student sees, and token shuffling: exact counts, explicit keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def visible_count(tokens: int, ratio: float) -> int:
    """Tokens left visible of `tokens` when a share `ratio` in [0, 1) is masked (rounded masked
    count, at least one left)."""
    return max(tokens - round(ratio * tokens), 1)


def random_visible(key: Array, batch: int, tokens: int, count: int) -> Int[Array, "B V"]:
    """`count` of `tokens` places of each clip, uniformly at random, in increasing order."""
    order = jax.random.uniform(key, (batch, tokens)).argsort(axis=-1)
    return jnp.sort(order[:, :count], axis=-1)


def block_order(key: Array, batch: int, grid: int, blocks: int = 12) -> Float[Array, "B N"]:
    """A masking priority of each place such that the lowest ones form BEiT-style rectangular
    blocks.

    Blocks cover at least 1/16 of the grid with aspect ratios in [0.3, 1/0.3], log-uniform. A place
    gets the number of the first block that covers it plus noise in [0, 1); uncovered places come
    last. Taking the k lowest masks whole blocks one after another, trims the last at random and
    fills up at random, so counts are always exact.

    Source: BEVT (github.com/xyzforever/BEVT) block masks; exact counts are our choice (the paper
    is silent).
    """
    k_area, k_aspect, k_top, k_left, k_noise = jax.random.split(key, 5)
    shape = (batch, blocks)
    area = jax.random.uniform(k_area, shape, minval=1 / 16, maxval=0.5) * grid * grid
    aspect = jnp.exp(jax.random.uniform(k_aspect, shape, minval=jnp.log(0.3), maxval=-jnp.log(0.3)))
    height = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, grid)
    width = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, grid)
    top = jnp.floor(jax.random.uniform(k_top, shape) * (grid - height + 1))
    left = jnp.floor(jax.random.uniform(k_left, shape) * (grid - width + 1))
    row, column = jnp.divmod(jnp.arange(grid * grid), grid)
    # B blocks N
    inside = (
        (row >= top[..., None])
        & (row < (top + height)[..., None])
        & (column >= left[..., None])
        & (column < (left + width)[..., None])
    )
    first = jnp.where(inside.any(1), inside.argmax(1), blocks)
    return first + jax.random.uniform(k_noise, first.shape)


def tube_visible(key: Array, batch: int, frames: int, grid: int, count: int) -> Int[Array, "B V"]:
    """Tube mask: the same random places visible in every frame."""
    return random_visible(key, batch, grid * grid, count)


def uniform_visible(
    key: Array, batch: int, frames: int, grid: int, count: int
) -> Int[Array, "B T V"]:
    """Random mask: `count` places of each frame, drawn anew in every frame."""
    return random_visible(key, batch * frames, grid * grid, count).reshape(batch, frames, count)


def bevt_visible(key: Array, batch: int, frames: int, grid: int, count: int) -> Int[Array, "B T V"]:
    """BEVT block-tube mask: blocks shared by a contiguous run of frames (wrapping around), half of
    the clip to all of it (4 to 8 of 8 frames).

    The frames outside the run share a second block mask (our choice: BEVT leaves them unmasked,
    which would make visible counts differ between frames and 0.65 unreachable; equal counts keep
    the saving exact).

    Source: VideoPrism section 2.3 names BEVT masking at ratio 0.65; tube lengths from the BEVT
    reference code.
    """
    k_first, k_second, k_length, k_start = jax.random.split(key, 4)
    orders = [block_order(k, batch, grid) for k in (k_first, k_second)]
    first, second = (jnp.sort(order.argsort(axis=-1)[:, -count:], axis=-1) for order in orders)
    length = jax.random.randint(k_length, (batch, 1), (frames + 1) // 2, frames + 1)
    start = jax.random.randint(k_start, (batch, 1), 0, frames)
    inside = (jnp.arange(frames) - start) % frames < length  # B T
    return jnp.where(inside[..., None], first[:, None], second[:, None])


MASKS = {"bevt": bevt_visible, "tube": tube_visible, "random": uniform_visible}


def draw_mask(
    mask: str, mask_ratio: float, key: Array, *, batch: int, frames: int, grid: int
) -> Int[Array, "B *R V"]:
    """Visible places, in increasing order, when `mask` (one of MASKS) hides a share `mask_ratio`
    of each frame's grid x grid.

    They are (B, T, V), or (B, V) where all frames share them. Raises ValueError for an unknown
    mask.
    """
    if mask not in MASKS:
        raise ValueError(f"stage2.mask={mask} is unknown: one of {', '.join(MASKS)}")
    return MASKS[mask](key, batch, frames, grid, visible_count(grid * grid, mask_ratio))


def raster_orders(
    visible: Int[Array, "B T V"], tokens: int
) -> tuple[Int[Array, "B S"], Int[Array, "B S"]]:
    """The permutation of [visible tokens, mask tokens] back to raster order, and its inverse."""
    b, t, v = visible.shape
    frame = jnp.arange(t)[:, None] * (tokens // t)
    place = (visible + frame).reshape(b, -1)  # raster index of each visible token
    seen = jax.nn.one_hot(place, tokens, dtype=jnp.int32).sum(1) > 0  # B S
    inverse = jnp.argsort(~seen, axis=-1, stable=True)  # visible in raster order, then masked
    # `place` is increasing by construction of the masks, so the v-th visible token is the v-th
    # seen place.
    return _ranks(seen), inverse


def _ranks(first: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    """The rank of each element where those that are `first` come before the others, both in order:
    what sorting a stable argsort gives, without sorting."""
    ranks = jnp.cumsum(first, axis=-1) - 1
    others = jnp.cumsum(~first, axis=-1) - 1 + first.sum(-1, keepdims=True)
    return jnp.where(first, ranks, others)


def shuffle_orders(
    key: Array, visible: Int[Array, "B T V"], tokens: int, share: float | Float[Array, ""]
) -> tuple[Int[Array, "B S"], Int[Array, "B S"]]:
    """The permutation of [visible tokens, mask tokens] for the decoder, drawn for each clip, and
    its inverse.

    In raster order each token has a slot; about a `share` in [0, 1] of the slots exchange their
    tokens at random. So 0 is raster order and 1 a uniform permutation; these two, given as Python
    numbers, need no partial exchange.
    """
    if isinstance(share, float | int) and share == 1:
        order = jax.random.uniform(key, (len(visible), tokens)).argsort(axis=-1)
        return order, order.argsort(axis=-1)
    raster, inverse = raster_orders(visible, tokens)
    if isinstance(share, float | int) and share == 0:
        return raster, inverse
    k_moves, k_where = jax.random.split(key)
    moves = jax.random.uniform(k_moves, raster.shape) < share
    # Slots that exchange come first, then those that stay, in raster order; so do the tokens that
    # fill them, the former in random order.
    rank = jnp.where(moves, jax.random.uniform(k_where, raster.shape), 1 + jnp.arange(tokens))
    source = jnp.argsort(rank, axis=-1)
    exchange = jnp.take_along_axis(source, _ranks(moves), axis=-1)
    order = jnp.take_along_axis(raster, exchange, axis=-1)
    return order, order.argsort(axis=-1)

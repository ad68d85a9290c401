"""From poses to pixels: sprites and backgrounds, antialiased, on a frame that wraps around.

Each shape is one polygon. Its signed distance is tabulated once on a fine grid; a sprite at any
position, angle and size is then a look-up, which is why a clip takes milliseconds.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float

# As far apart as their names allow for everyone, also for eyes without one kind of cone, which is
# why they differ in lightness: dark red, mid green, light pink (tests/test_world.py).
COLOURS = {
    "red": (168, 8, 12), "orange": (240, 100, 0), "yellow": (250, 244, 70), "green": (51, 172, 102),
    "cyan": (65, 255, 254), "blue": (88, 96, 252), "purple": (110, 24, 150), "pink": (248, 139, 189),
}  # fmt: skip
TEXTURES = ("plain", "striped", "dotted", "checked")
VARIANTS = 4  # drawings of each background; a scene picks one and shifts it at random

_OUTLINE = np.array((24, 22, 34), np.float32)
_GRID, _REACH = 256, 1.3  # the tables cover [-1.3, 1.3]^2 in units of half the sprite's size
_TAU = 2 * np.pi


def _circle(radius: float, start: float, stop: float, points: int = 24) -> np.ndarray:
    turn = np.linspace(start, stop, points) * _TAU
    return radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def _polygons() -> dict[str, np.ndarray]:
    """Corner points of every shape, y downwards, centred where rotation turns the sprite."""
    tips = np.arange(10) / 10 * _TAU - _TAU / 4
    star = (
        np.stack([np.cos(tips), np.sin(tips)], 1) * np.where(np.arange(10) % 2, 0.46, 1.12)[:, None]
    )
    curve = np.arange(40) / 40 * _TAU
    heart = np.stack([16 * np.sin(curve) ** 3, -13 * np.cos(curve) + 5 * np.cos(2 * curve) + 2 * np.cos(3 * curve)
                      + np.cos(4 * curve)], 1) / 17.5 - (0, 0.1)  # fmt: skip
    moon = np.concatenate([_circle(1.1, 0.11, 0.89), (0.66, 0) + _circle(0.846, 0.735, 0.265)]) + (
        0.25,
        0,
    )
    cross = [(-0.34, -1), (0.34, -1), (0.34, -0.34), (1, -0.34), (1, 0.34), (0.34, 0.34), (0.34, 1), (-0.34, 1),
             (-0.34, 0.34), (-1, 0.34), (-1, -0.34), (-0.34, -0.34)]  # fmt: skip
    arrow = [
        (0, -1.1),
        (0.85, -0.1),
        (0.36, -0.1),
        (0.36, 1),
        (-0.36, 1),
        (-0.36, -0.1),
        (-0.85, -0.1),
    ]
    return {
        "star": star,
        "triangle": np.array([(0, -1.1), (0.9, 0.75), (-0.9, 0.75)]),
        "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
        "moon": moon,
        "arrow": np.array(arrow),
        "heart": heart,
        "cross": np.array(cross),
        "ring": np.concatenate([_circle(1.0, 0.04, 0.96, 40), _circle(0.42, 0.91, 0.09, 40)]),
    }


POLYGONS = _polygons()
SHAPES = tuple(POLYGONS)


@lru_cache
def _distance(shape: str) -> Float[np.ndarray, "grid grid"]:
    """Signed distance to the shape's edge, negative inside, in units of half the sprite's size."""
    line = np.linspace(-_REACH, _REACH, _GRID)
    x, y = np.meshgrid(line, line)
    nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    corners = POLYGONS[shape]
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2)
        if dy:  # even-odd rule: count the edges that a ray to the right crosses
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * dx / dy)
    return (np.where(inside, -1, 1) * np.sqrt(nearest)).astype(np.float32)


@lru_cache
def _ink(texture: str) -> Float[np.ndarray, "grid grid"]:
    """How much of the second, darker tone a texture has at each point of the sprite, in [0, 1]."""
    line = np.linspace(-_REACH, _REACH, _GRID)
    x, y = np.meshgrid(line, line)
    if texture == "plain":
        level = np.full(x.shape, -1.0)
    elif texture == "striped":
        level = 4 * np.cos(_TAU * x / 0.56)
    elif texture == "dotted":
        level = 16 * (0.17 - np.hypot((x + 0.28) % 0.56 - 0.28, (y + 0.28) % 0.56 - 0.28))
    else:
        level = 9 * np.sin(_TAU * x / 0.9) * np.sin(_TAU * y / 0.9)
    return np.clip(0.5 + level, 0, 1).astype(np.float32)


def draw(
    canvas: Float[np.ndarray, "T H W 3"],
    shape: str,
    colour: str,
    texture: str,
    pose: Float[np.ndarray, "T 4"],
) -> None:
    """Paint one sprite into every frame, in place; what leaves on one side enters on the other.

    `pose`: x, y, angle (radians, clockwise), size; lengths in frame sides.
    """
    side = canvas.shape[1]
    x, y, angle, size = (pose[:, k, None, None] for k in range(4))
    half = (0.5 * side * size).astype(np.float32)  # T 1 1, pixels
    reach = float(half.max()) * np.hypot(*POLYGONS[shape].T).max() + 1
    span = np.arange(-int(reach) - 1, int(reach) + 2)
    # T 1 w, T w 1
    column, row = (
        np.floor(x * side).astype(int) + span,
        np.floor(y * side).astype(int) + span[:, None],
    )
    u, v = (
        (cells + 0.5 - centre * side).astype(np.float32) / half
        for cells, centre in ((column, x), (row, y))
    )
    scale, middle = (_GRID - 1) / (2 * _REACH), np.float32(_GRID / 2)
    cos, sin = ((scale * turn(angle)).astype(np.float32) for turn in (np.cos, np.sin))
    # Into the sprite's own, unrotated axes, T w w; float32 and few passes, or this takes longest.
    local_x, local_y = (
        np.clip(local, 0, _GRID - 1).astype(np.int32)
        for local in (u * cos + (v * sin + middle), (v * cos + middle) - u * sin)
    )
    cell = local_y * _GRID + local_x
    edge = _distance(shape).take(cell) * half  # pixels
    frame, i, j = np.nonzero(edge < 0.5)
    edge, cell = edge[frame, i, j], cell[frame, i, j]

    tone = np.array(COLOURS[colour], np.float32)
    body = tone * (1 - 0.5 * _ink(texture).take(cell))[:, None]
    width = np.maximum(1.0, 0.16 * half[:, 0, 0])[frame]
    rim = np.clip(edge + width + 0.5, 0, 1)[:, None]
    body += rim * (_OUTLINE - body)
    cover = np.clip(0.5 - edge, 0, 1)[:, None]
    pixel = (frame * side + row[frame, i, 0] % side) * side + column[frame, 0, j] % side
    flat = canvas.reshape(-1, 3)
    below = flat[pixel]
    flat[pixel] = below + cover * (body - below)


def box(shape: str, pose: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "T 4"]:
    """x0, y0, x1, y1, in frame sides, of the copy whose centre is in the frame, clipped to it."""
    x, y, angle, size = pose.T
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # 2 2 T
    corners = np.einsum("abt,nb->tna", turn, POLYGONS[shape]) * (size / 2)[:, None, None]
    centre = np.stack([x, y], 1) % 1
    return np.clip(np.concatenate([centre + corners.min(1), centre + corners.max(1)], 1), 0, 1)


# --- backgrounds ---------------------------------------------------------------------------------
# Every drawing repeats in both directions, so that the camera can travel without end.


def _noise(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, low: int, high: int
) -> np.ndarray:
    """Smooth periodic noise, `low` to `high` periods a side; standard deviation about one."""
    waves = rng.integers(low, high + 1, (14, 2)) * rng.choice([-1, 1], (14, 2))
    return sum(np.cos(_TAU * (a * x + b * y + rng.random())) for a, b in waves) / np.sqrt(7)


def _specks(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, count: int, radius: float
) -> np.ndarray:
    """Soft round dots at random places, in [0, 1]; never thinner than a pixel."""
    level = np.zeros(x.shape)
    for a, b in rng.random((count, 2)):
        away = np.hypot((x - a + 0.5) % 1 - 0.5, (y - b + 0.5) % 1 - 0.5)
        level = np.maximum(
            level, rng.uniform(0.5, 1) * np.exp(-((away / max(radius, 0.6 / len(x))) ** 2))
        )
    return level


def _mix(base: np.ndarray, tone: tuple[int, int, int], amount: np.ndarray) -> np.ndarray:
    return base + amount[..., None] * (np.array(tone) - base)


def _desert(rng, x, y):
    dunes = np.sin(
        _TAU * (3 * y + 0.16 * np.sin(_TAU * (x + rng.random())) + 0.09 * _noise(rng, x, y, 1, 2))
    )
    sand = np.array((224, 198, 150)) + (9 * dunes + 2.5 * _noise(rng, x, y, 6, 11))[..., None]
    return _mix(sand, (186, 150, 104), 0.6 * np.clip(dunes * 3 - 2, 0, 1)), None


def _sea(rng, x, y):
    deep = np.array((92, 146, 176)) + 7 * _noise(rng, x, y, 1, 3)[..., None]
    swell = np.sin(
        _TAU * (6 * y + 0.13 * np.sin(_TAU * 3 * x) + 0.2 * np.sin(_TAU * (x + rng.random())))
    )
    return deep, 0.42 * np.clip(swell * 2.2 - 1.1 + 0.3 * _noise(rng, x, y, 2, 4), 0, 1)


def _forest(rng, x, y):
    wood = np.broadcast_to(np.array((70, 92, 72.0)), (*x.shape, 3))
    for layer in range(4):  # rows of firs, each a zigzag tree line, nearer rows lighter
        trees = np.abs((5 * x + rng.random()) % 1 - 0.5) * 2 * 0.2
        depth = (y - layer / 4 - trees) % 1
        wood = _mix(
            wood,
            (58 + 16 * (layer % 2), 88 + 18 * (layer % 2), 64),
            np.clip((0.25 - depth) * 40, 0, 1),
        )
    return wood + 2 * _noise(rng, x, y, 5, 9)[..., None], None


def _night(rng, x, y):
    sky = np.array((34, 38, 72)) + np.array((5, 4, 9)) * _noise(rng, x, y, 1, 2)[..., None]
    stars = np.maximum(_specks(rng, x, y, 40, 0.006), _specks(rng, x, y, 7, 0.014))
    return _mix(sky, (236, 232, 206), 0.8 * stars), None


def _snow(rng, x, y):
    ground = np.array((192, 204, 220)) + np.array((9, 7, 4)) * _noise(rng, x, y, 1, 3)[..., None]
    return ground, np.maximum(_specks(rng, x, y, 36, 0.012), _specks(rng, x, y, 14, 0.02))


def _bricks(rng, x, y):
    row = np.floor(y * 8).astype(int) % 8
    across = (x * 4 + 0.5 * (row % 2)) % 4
    tint = rng.normal(0, 9, (8, 4))[row, across.astype(int)]
    wall = np.array((166, 118, 104)) + tint[..., None]
    joint = np.minimum(
        np.minimum(across % 1, 1 - across % 1) / 4, np.minimum(y * 8 % 1, 1 - y * 8 % 1) / 8
    )
    return _mix(wall, (204, 192, 180), np.clip((0.0125 - joint) * 100, 0, 1)), None


def _meadow(rng, x, y):
    grass = np.array((154, 186, 116)) + np.array((8, 6, 7)) * _noise(rng, x, y, 1, 3)[..., None]
    grass += 6 * np.sin(_TAU * (14 * x + 0.4 * _noise(rng, x, y, 2, 4)))[..., None]
    grass = _mix(grass, (250, 250, 240), 0.9 * _specks(rng, x, y, 18, 0.016))
    return _mix(grass, (240, 206, 110), 0.9 * _specks(rng, x, y, 12, 0.016)), None


def _city(rng, x, y):
    tower = np.floor(x * 4).astype(int) % 4
    wall = np.array((128, 130, 144)) + (rng.permutation(4) * 9 - 13)[tower][..., None]
    storey, room = y * 6, x * 8
    pane = (np.abs(storey % 1 - 0.5) < 0.27) & (np.abs(room % 1 - 0.5) < 0.27)
    lit = (rng.random((6, 8)) < 0.3)[storey.astype(int) % 6, room.astype(int) % 8]
    wall = _mix(wall, (96, 102, 120), 1.0 * (pane & ~lit))
    return _mix(wall, (220, 206, 160), 0.75 * (pane & lit)), None


_SCENERY = {
    "desert": _desert,
    "sea": _sea,
    "forest": _forest,
    "night": _night,
    "snow": _snow,
    "bricks": _bricks,
    "meadow": _meadow,
    "city": _city,
}
BACKGROUNDS = tuple(_SCENERY)
# Frame sides a second that the white upper layer scrolls.
_DRIFT = {"sea": (0.16, 0.03), "snow": (0.05, -0.3)}


@lru_cache(maxsize=len(_SCENERY) * VARIANTS)
def _scenery(name: str, variant: int, side: int) -> tuple[np.ndarray, np.ndarray | None]:
    """One drawing: colours [H, W, 3] and, if something moves in it, the opacity [H, W] of white."""
    line = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(line, line)
    colours, layer = _SCENERY[name](np.random.default_rng(variant), x, y)
    return colours.astype(np.float32), None if layer is None else layer[..., None].astype(
        np.float32
    )


def _shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The image seen from (x, y), in frame sides: bilinear, wrapping around."""
    side = len(image)
    column, row = (x * side) % side, (y * side) % side
    span = np.arange(side + 1)
    image = image.take(span + int(row), 0, mode="wrap").take(span + int(column), 1, mode="wrap")
    image = image[:, :-1] + np.float32(column % 1) * (image[:, 1:] - image[:, :-1])
    return image[:-1] + np.float32(row % 1) * (image[1:] - image[:-1])


def backdrop(
    name: str,
    variant: int,
    side: int,
    view: Float[np.ndarray, "T 2"],
    seconds: Float[np.ndarray, " T"],
) -> Float[np.ndarray, "T H W 3"]:
    """The background alone, in 0..255, seen from `view` (frame sides); waves and snow move."""
    colours, layer = _scenery(name, variant, side)
    canvas = np.empty((len(view), side, side, 3), np.float32)
    if layer is None and (view == view[0]).all():
        canvas[:] = _shifted(colours, *view[0])
        return canvas
    for frame, ((x, y), t) in enumerate(zip(view, seconds, strict=True)):
        canvas[frame] = _shifted(colours, x, y)
        if layer is not None:
            dx, dy = _DRIFT[name]
            canvas[frame] += _shifted(layer, x + dx * t, y + dy * t) * (250 - canvas[frame])
    return canvas

"""Animals from postures to pixels: each is a few round parts with one outline, antialiased.

Places and directions are complex numbers, x + iy with y downwards: multiplying by exp(i a) turns
clockwise by a. A body's own coordinates count in half of its length, ahead and to its right.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int

Places = Complex[np.ndarray, " T"]
Colour = tuple[int, int, int]
FACE, EYE = (226, 178, 140), (16, 14, 20)
_OUTLINE = (24, 22, 34)
_RIM = 1 / 56  # thickness of the outline, frame sides: a pixel where the world has 56


class Part(NamedTuple):
    """An ellipse, or a line with round ends, in every frame; lengths in frame sides.

    Without `rim` it has no outline.
    """

    place: Places
    ahead: Places  # unit: the direction of its axis
    length: float | Float[np.ndarray, " T"]  # half of it
    width: float | Float[np.ndarray, " T"]
    colour: Colour
    opacity: float = 1.0
    rim: bool = True
    line: bool = False


def turned(angle: float | Float[np.ndarray, " T"]) -> complex | Places:
    """The direction `angle` radians clockwise of where x points."""
    return np.exp(1j * np.asarray(angle))


def chosen(parts: Sequence[Part], frames: Int[np.ndarray, " N"]) -> list[Part]:
    """The same parts in these frames alone."""
    return [
        Part(*(value[frames] if isinstance(value, np.ndarray) else value for value in part))
        for part in parts
    ]


def paint(canvas: Float[np.ndarray, "T H W 3"], parts: Sequence[Part]) -> None:
    """Draws one animal into every frame, in place: its outline first, then part over part."""
    flat, side = canvas.reshape(-1), canvas.shape[1]
    cells = [_cells(part, side) for part in parts]
    for part, (pixel, edge) in zip(parts, cells, strict=True):
        if part.rim:
            rim = edge > -1  # the rest will be covered
            _blend(flat, pixel[rim], (np.float32(0.5 + _RIM * side) - edge[rim]), _OUTLINE)
    for part, (pixel, edge) in zip(parts, cells, strict=True):
        body = edge < 0.5
        _blend(flat, pixel[body], 0.5 - edge[body], part.colour, part.opacity)


def _blend(flat, pixel, cover, colour: Colour, opacity: float = 1.0) -> None:
    """Lays `colour` over some pixels of an image of three channels in a row."""
    cover = np.float32(opacity) * np.clip(cover, 0, 1)
    for channel, tone in enumerate(colour):  # one by one: three at a time take twice as long
        place = 3 * pixel + channel
        below = flat.take(place)
        below += cover * (np.float32(tone) - below)
        flat[place] = below


def _cells(part: Part, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in and around the part that the frame holds, and how far outside they are, in pixels.

    An ellipse's distance is that to its tangent, which is exact enough near the edge.
    """
    frames = len(part.place)
    x, y, cos, sin, length, width = (
        np.broadcast_to(np.float32(value), frames)
        for value in (
            *(side * part.place.real, side * part.place.imag, part.ahead.real, part.ahead.imag),
            *(side * part.length, side * part.width),
        )
    )
    margin = 0.5 + _RIM * side * part.rim
    # An ellipse that holds all: few passes over whole squares, the rest on the pixels within it.
    a, b = (1.42 * (n + margin) if part.line else n + 1.2 * margin for n in (length, width))
    across, down = (
        np.arange(-int(n.max()) - 1, int(n.max()) + 2, dtype=np.int32)
        for n in (np.hypot(a * cos, b * sin), np.hypot(a * sin, b * cos))
    )
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    u = (across + 0.5 - (x - left)[:, None]).astype(np.float32)  # T w
    v = (down + 0.5 - (y - top)[:, None]).astype(np.float32)  # T h
    xx, yy = (cos / a) ** 2 + (sin / b) ** 2, (sin / a) ** 2 + (cos / b) ** 2
    xy = 2 * cos * sin * (1 / a**2 - 1 / b**2)
    near = (xy[:, None] * v)[:, :, None] * u[:, None] + (yy[:, None] * v**2)[:, :, None]
    near += (xx[:, None] * u**2)[:, None]
    frame, i, j = np.nonzero(near < 1)
    column, row = left[frame] + across[j], top[frame] + down[i]
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    if not inside.all():
        frame, i, j, column, row = (n[inside] for n in (frame, i, j, column, row))
    u, v, cos, sin = u[frame, j], v[frame, i], cos[frame], sin[frame]
    along, across = u * cos + v * sin, v * cos - u * sin
    length, width = length[frame], width[frame]
    if part.line:
        beyond = np.maximum(np.abs(along) - (length - width), 0)
        edge = np.sqrt(beyond**2 + across**2) - width
    else:
        along, across = along / length, across / width
        inner = np.sqrt(along**2 + across**2) + np.float32(1e-6)
        edge = inner * (inner - 1) / np.sqrt((along / length) ** 2 + (across / width) ** 2 + 1e-12)
    return (frame * side + row) * side + column, edge


def box(parts: Sequence[Part]) -> Float[np.ndarray, "T 4"]:
    """x0, y0, x1, y1 of an animal with its outline, in frame sides, clipped to the frame."""
    low, high = [], []
    for part in parts:
        x, y = part.ahead.real, part.ahead.imag
        reach = np.hypot(part.length * x, part.width * y) + 1j * np.hypot(
            part.length * y, part.width * x
        )
        rim = _RIM * part.rim * (1 + 1j)
        low.append(part.place - reach - rim)
        high.append(part.place + reach + rim)
    low, high = np.stack(low), np.stack(high)
    corners = (low.real.min(0), low.imag.min(0), high.real.max(0), high.imag.max(0))
    return np.clip(np.stack(corners, 1), 0, 1)


# --- bodies --------------------------------------------------------------------------------------


class _Body(NamedTuple):
    """Where a body is; `size` is half of its length, in frame sides."""

    place: Places
    ahead: Places
    size: float | Float[np.ndarray, " T"]

    def ellipse(self, at: complex | Places, length, width, colour, turn=0.0, **more) -> Part:
        """At `at` in the body's own coordinates, `turn` radians clockwise of its axis."""
        place, ahead = self.place + self.ahead * self.size * at, self.ahead * turned(turn)
        return Part(place, ahead, self.size * length, self.size * width, colour, **more)

    def limb(self, start: complex | Places, end: complex | Places, width, colour) -> Part:
        """A line from one point to another."""
        reach = np.broadcast_to(np.asarray(end) - start, self.place.shape)
        length = np.abs(reach)
        ahead = self.ahead * reach / length
        place = self.place + self.ahead * self.size * (start + reach / 2)
        return Part(
            place, ahead, self.size * (length / 2 + width), self.size * width, colour, line=True
        )


def fly(
    place: Places, ahead: Places, size: float, wings: Float[np.ndarray, "2 T"], tone: float
) -> list[Part]:
    """From above. `wings`: how far the left and the right one are spread, 0 to 1."""
    body = _Body(place, ahead, size)
    amber, brown, red = (
        tuple(int(tone * value) for value in colour)
        for colour in ((214, 150, 62), (128, 82, 44), (176, 30, 34))
    )
    legs = [
        body.ellipse(at, 0.66, 0.05, _shade(brown, 0.45), np.pi / 2 + turn, rim=False)
        for at, turn in ((0.2, -0.45), (0.1, 0.0), (0.0, 0.45))
    ]
    parts = [
        *legs,
        body.ellipse(-0.5, 0.5, 0.29, amber),
        body.ellipse(-0.62, 0.055, 0.24, _shade(amber, 0.5), rim=False),
        body.ellipse(-0.36, 0.055, 0.26, _shade(amber, 0.5), rim=False),
        body.ellipse(0.16, 0.3, 0.27, brown),
        body.ellipse(0.62, 0.2, 0.26, red),
    ]
    for side, spread in zip((-1, 1), wings, strict=True):
        turn = np.pi - side * (0.14 + 1.25 * spread)
        at = 0.14 + 0.14j * side + 0.7 * turned(turn)
        parts += [
            body.ellipse(at, 0.76, 0.27, (60, 70, 90), turn, opacity=0.5, rim=False),
            body.ellipse(at, 0.70, 0.22, (226, 238, 250), turn, opacity=0.8, rim=False),
        ]
    return parts


def mouse(
    place: Places,
    ahead: Places,
    size: float,
    nose: Float[np.ndarray, " T"],
    tail: Float[np.ndarray, " T"],
    fur: Colour,
) -> list[Part]:
    """From above. `nose`, `tail`: radians that the head and the tail are turned, clockwise."""
    body, pink = _Body(place, ahead, size), (228, 150, 150)
    neck = 0.3 + 0.42 * turned(nose)
    first = -0.8 + 0.5 * -turned(-tail)
    return [
        body.limb(-0.7, first, 0.06, pink),
        body.limb(first, first + 0.5 * -turned(1.2 * tail), 0.045, pink),
        body.ellipse(-0.25, 0.66, 0.44, fur),
        body.ellipse(neck, 0.42, 0.27, fur, nose),
        *(
            body.ellipse(neck + (-0.16 + 0.27j * k) * turned(nose), 0.15, 0.15, fur)
            for k in (-1, 1)
        ),
        *(
            body.ellipse(neck + (-0.16 + 0.27j * k) * turned(nose), 0.09, 0.09, pink, rim=False)
            for k in (-1, 1)
        ),
        *(
            body.ellipse(neck + (0.16 + 0.13j * k) * turned(nose), 0.06, 0.06, EYE, rim=False)
            for k in (-1, 1)
        ),
        body.ellipse(neck + 0.42 * turned(nose), 0.09, 0.09, pink, rim=False),
    ]


def chimp(
    place: Places,
    lean: Float[np.ndarray, " T"],
    size: float,
    hands: Complex[np.ndarray, "2 T"],
    ball: Places,
    fur: Colour,
    toy: Colour,
) -> list[Part]:
    """Sitting upright, from the front; coordinates are right and down. `ball`: where its toy is."""
    body = _Body(place, turned(lean), size)
    dark = _shade(fur, 0.75)
    arms = [
        part
        for shoulder, hand in zip((-0.34 - 0.28j, 0.34 - 0.28j), hands, strict=True)
        for part in (body.limb(shoulder, hand, 0.11, dark), body.ellipse(hand, 0.13, 0.13, FACE))
    ]
    return [
        body.ellipse(-0.3 + 0.66j, 0.26, 0.15, dark),
        body.ellipse(0.3 + 0.66j, 0.26, 0.15, dark),
        body.ellipse(0.14j, 0.44, 0.56, fur),
        body.ellipse(-0.4 - 0.66j, 0.15, 0.15, FACE),
        body.ellipse(0.4 - 0.66j, 0.15, 0.15, FACE),
        body.ellipse(-0.66j, 0.38, 0.36, fur),
        body.ellipse(-0.58j, 0.27, 0.26, FACE, rim=False),
        body.ellipse(-0.12 - 0.66j, 0.06, 0.08, EYE, rim=False),
        body.ellipse(0.12 - 0.66j, 0.06, 0.08, EYE, rim=False),
        body.ellipse(-0.45j, 0.12, 0.04, EYE, rim=False),
        body.ellipse(ball, 0.17, 0.17, toy),
        *arms,
    ]


def grazer(
    place: Places,
    rock: Float[np.ndarray, " T"],
    facing: int,
    size: float | Float[np.ndarray, " T"],
    neck: Float[np.ndarray, " T"],
    feet: Complex[np.ndarray, "4 T"],
    tail: Float[np.ndarray, " T"],
    giraffe: bool,
) -> list[Part]:
    """A zebra or a giraffe from the side. `facing`: 1 to the right, -1 to the left.

    `rock`: radians that it is turned clockwise; `neck`: radians that it points below the body;
    `feet`: away from where they stand, hind ones first; `tail`: radians that it is lifted.
    """
    body = _Body(place, turned(rock), size)

    def seen(at):  # mirrored where it faces left
        return at if facing > 0 else -np.conj(at)

    coat, mark = ((238, 196, 116), (158, 92, 44)) if giraffe else ((244, 240, 232), (44, 40, 50))
    reach, head = (0.66 if giraffe else 0.46), seen(turned(neck))
    shoulder = 0.42 - 0.14j
    crown = seen(shoulder) + reach * head
    hips = (-0.46 + 0.12j, -0.34 + 0.12j, 0.34 + 0.12j, 0.44 + 0.12j)
    legs = [
        body.limb(seen(hip), seen(hip + 0.62j + foot), 0.07, _shade(coat, 0.72 if k % 2 else 1.0))
        for k, (hip, foot) in enumerate(zip(hips, feet, strict=True))
    ]
    tip = -0.6 + 0.5 * turned(np.pi / 2 + tail)
    marks = [
        body.ellipse(seen(x + y * 1j), length, width, mark, seen_turn, rim=False)
        for x, y, length, width, seen_turn in (
            [(-0.34, -0.06, 0.11, 0.09, 0.0), (-0.05, 0.08, 0.12, 0.08, 0.0), (0.02, -0.14, 0.1, 0.06, 0.0),
             (0.3, 0.0, 0.11, 0.09, 0.0), (-0.22, 0.14, 0.09, 0.06, 0.0)]
            if giraffe
            else [(x, 0.0, 0.22, 0.055, np.pi / 2) for x in (-0.4, -0.2, 0.0, 0.2, 0.38)]
        )
    ]  # fmt: skip
    snout = crown + 0.2 * seen(turned(np.pi / 5 + 0.5 * neck))
    return [
        body.limb(seen(-0.58 - 0.1j), seen(tip - 0.1j), 0.04, mark),
        legs[1],
        legs[3],
        body.limb(seen(shoulder), crown, 0.13, coat),
        body.ellipse(0.0, 0.6, 0.28, coat),
        legs[0],
        legs[2],
        *marks,
        *(
            body.ellipse(seen(shoulder) + share * reach * head, 0.05, 0.1, mark, np.angle(head), rim=False)
            for share in (0.35, 0.7)
        ),
        body.limb(crown, crown + 0.16 * seen(turned(neck - 1.2)), 0.05, coat),
        body.limb(crown, snout, 0.12, coat),
        body.ellipse(snout + 0.06 * seen(1 + 0.6j), 0.09, 0.09, mark, rim=False),
        body.ellipse(crown + 0.02 * seen(1 - 1j), 0.055, 0.055, EYE, rim=False),
    ]  # fmt: skip


def _shade(colour: Colour, amount: float) -> Colour:
    return tuple(int(amount * value) for value in colour)

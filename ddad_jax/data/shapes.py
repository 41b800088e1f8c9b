"""The drawing board of the generated parts: pose, distance fields, paint.

Part coordinates are (u, v), to the right and downwards; if the part is not moved, both run from -1
to 1 over the image. A distance field is negative inside its shape. Reflectance runs from 0 to 1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

Field = Float[np.ndarray, "h w"]


@dataclass(frozen=True)
class Pose:
    """Where the part lies in an image of `size` pixels square.

    Attributes:
        size: of the image, in pixels.
        angle: of the part, in radians clockwise.
        shift: of its centre to the right and downwards, in half image sides.
        scale: 1 where the part's frame fills the image.
    """

    size: int
    angle: float
    shift: tuple[float, float]
    scale: float

    @property
    def pixel(self) -> float:
        """The side of a pixel in part coordinates."""
        return 2 / (self.size * self.scale)

    @cached_property
    def coordinates(self) -> tuple[Field, Field]:
        """The part coordinates (u, v) of every pixel's centre."""
        axis = (np.arange(self.size, dtype=np.float32) + 0.5) * np.float32(2 / self.size) - 1
        x = (axis - np.float32(self.shift[0]))[None, :] / np.float32(self.scale)
        y = (axis - np.float32(self.shift[1]))[:, None] / np.float32(self.scale)
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        return cosine * x + sine * y, cosine * y - sine * x

    def window(self, u: float, v: float, radius: float) -> tuple[slice, slice]:
        """Returns the rows and columns that hold everything within `radius` of (u, v)."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x = self.scale * (cosine * u - sine * v) + self.shift[0]
        y = self.scale * (sine * u + cosine * v) + self.shift[1]
        reach = self.scale * radius
        spans = []
        for centre in (y, x):
            low = int(np.floor((centre - reach + 1) * self.size / 2)) - 1
            high = int(np.ceil((centre + reach + 1) * self.size / 2)) + 1
            spans.append(slice(min(max(low, 0), self.size), min(max(high, 0), self.size)))
        return spans[0], spans[1]


@dataclass(frozen=True)
class Board:
    """A window of an image that is being painted.

    Attributes:
        paint: RGB reflectance; a view, so that painting changes the image.
        u: part coordinate of each pixel, to the right, relative to the window's subject.
        v: likewise, downwards.
        pixel: the side of a pixel in part coordinates.
        light: the unit vector, in part coordinates, that points to the source of light.
    """

    paint: Float[np.ndarray, "h w 3"]
    u: Field
    v: Field
    pixel: float
    light: tuple[float, float]

    def at(self, pose: Pose, u: float, v: float, radius: float) -> "Board":
        """Returns the window around (u, v) of a board that is a whole image."""
        rows, columns = pose.window(u, v, radius)
        return Board(
            self.paint[rows, columns],
            self.u[rows, columns] - np.float32(u),
            self.v[rows, columns] - np.float32(v),
            self.pixel,
            self.light,
        )

    def cover(self, distance: Field) -> Field:
        """Returns the share of each pixel that lies inside a shape."""
        return np.clip(0.5 - distance / np.float32(self.pixel), 0, 1)

    def fill(self, colour: Float[np.ndarray, "*#hw 3"], share: Field) -> None:
        """Paints the given share of each pixel with a colour."""
        np.add(self.paint, share[:, :, None] * (colour - self.paint), out=self.paint)

    def shade(self, brightness: Field) -> None:
        """Multiplies the paint by 1 + brightness."""
        np.multiply(self.paint, (1 + brightness)[:, :, None], out=self.paint)

    def bevel(self, distance: Field, width: float, strength: float) -> None:
        """Lights the band of `width` inside a shape's outline as a slope that falls outwards."""
        band = self.cover(distance) * (1 - self.cover(distance + np.float32(width)))
        slope_v, slope_u = np.gradient(distance, np.float32(self.pixel))
        facing = slope_u * np.float32(self.light[0]) + slope_v * np.float32(self.light[1])
        self.shade(np.float32(strength) * band * facing)


def colour(*rgb: float) -> Float[np.ndarray, "3"]:
    """Returns an RGB reflectance."""
    return np.array(rgb, np.float32)


def disc(u: Field, v: Field, radius: float) -> Field:
    """Returns the distance to a disc around the origin."""
    return np.hypot(u, v) - np.float32(radius)


def box(u: Field, v: Field, half_u: float, half_v: float, corner: float) -> Field:
    """Returns the distance to an upright rectangle with rounded corners around the origin."""
    over_u = np.abs(u) - np.float32(half_u - corner)
    over_v = np.abs(v) - np.float32(half_v - corner)
    outside = np.hypot(np.maximum(over_u, 0), np.maximum(over_v, 0))
    return outside + np.minimum(np.maximum(over_u, over_v), 0) - np.float32(corner)


def hexagon(u: Field, v: Field, radius: float, angle: float) -> Field:
    """Returns the distance to a regular hexagon whose flats are `radius` from the origin."""
    sides = [
        np.abs(u * np.float32(np.cos(turn)) + v * np.float32(np.sin(turn)))
        for turn in angle + np.pi / 3 * np.arange(3)
    ]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - np.float32(radius)


def stroke(u: Field, v: Field, points: Float[np.ndarray, "k 2"]) -> tuple[Field, Field]:
    """Returns the distance to a line through points, and the position along it, from 0 to 1."""
    distance = np.full(u.shape, np.inf, np.float32)
    way = np.zeros(u.shape, np.float32)
    pieces = len(points) - 1
    for piece, (start, end) in enumerate(zip(points[:-1], points[1:], strict=True)):
        along = (end - start).astype(np.float32)
        du, dv = u - np.float32(start[0]), v - np.float32(start[1])
        place = np.clip((du * along[0] + dv * along[1]) / np.float32(along @ along), 0, 1)
        here = np.hypot(du - place * along[0], dv - place * along[1])
        nearer = here < distance
        distance = np.where(nearer, here, distance)
        way = np.where(nearer, (place + piece) / np.float32(pieces), way)
    return distance, way


def cloud(u: Field, v: Field, rng: np.random.Generator, grain: float, octaves: int = 2) -> Field:
    """Returns smooth noise of mean 0 and deviation near 1; its largest features measure `grain`."""
    total = np.zeros(u.shape, np.float32)
    for octave in range(octaves):
        cells = rng.standard_normal((64, 64)).astype(np.float32)
        scale = np.float32(2**octave / grain)
        total += _lookup(cells, u * scale, v * scale) * np.float32(1.5 / 2**octave)
    return total


def _lookup(cells: Float[np.ndarray, "n n"], x: Field, y: Field) -> Field:
    """Interpolates in a periodic grid, bilinearly but with smoothed weights."""
    n = len(cells)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    x, y = x - column, y - row
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    left, right, top, bottom = column % n, (column + 1) % n, row % n, (row + 1) % n
    upper = cells[top, left] * (1 - x) + cells[top, right] * x
    lower = cells[bottom, left] * (1 - x) + cells[bottom, right] * x
    return upper * (1 - y) + lower * y

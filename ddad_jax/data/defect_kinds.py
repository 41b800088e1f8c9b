"""The kinds of planted defects, and what each changes in a photograph.

They follow published work: CutPaste (Li et al., 2021) pastes pieces of the image itself, NSA
(Schlüter et al., 2022) blends in pieces of others, DRAEM (Zavrtanik et al., 2021) paints textures
inside smooth noise. In addition, scratches, cuts, stains and dents are painted, and components that
stand out by their colour are erased or doubled. Lengths are in halves of the image's longer side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from ddad_jax.data.shapes import Field, cloud, disc, stroke

COLOURS = 8  # An image is reduced to these to find its components.
# Oil, rust, lime, grease, ink, mould.
_STAINS = np.array(
    [(84, 58, 28), (108, 50, 20), (235, 233, 226), (30, 28, 26), (40, 62, 110), (150, 140, 60)],
    np.float32,
)

Pixels = Float[np.ndarray, "h w 3"]


@dataclass(frozen=True, eq=False)
class Scene:
    """A photograph that a defect is painted into.

    Attributes:
      pixels: its levels, in [0, 255].
      part: where the part is, as far as it can be told from its surroundings.
      other: a photograph of another part; the same one if there is none.
      u: coordinate of each pixel to the right, in [-1, 1].
      v: likewise, downwards.
      area: the area that the defect should cover, in pixels.
      rng: draws everything that is random.
    """

    pixels: Pixels
    part: Bool[np.ndarray, "h w"]
    other: Pixels
    u: Field
    v: Field
    area: float
    rng: np.random.Generator

    @property
    def pixel(self) -> float:
        """The side of a pixel."""
        return 2.0 / max(self.pixels.shape[:2])

    def cover(self, distance: Field, soft: float = 1.0) -> Field:
        """Returns the share of each pixel inside a shape whose edge is `soft` pixels wide."""
        return np.clip(0.5 - distance / np.float32(soft * self.pixel), 0, 1)

    def place(self) -> tuple[float, float]:
        """Draws a place on the part."""
        rows, columns = np.nonzero(self.part)
        one = self.rng.integers(len(rows))
        return float(self.u[rows[one], columns[one]]), float(self.v[rows[one], columns[one]])

    def blob(self) -> Field:
        """Returns the distance to a shape of uneven outline somewhere on the part."""
        u, v = self.place()
        radius = np.sqrt(self.area / np.pi) * self.pixel
        stretch = np.float32(self.rng.uniform(0.6, 1.6))
        angle = self.rng.uniform(0, np.pi)
        along, across = _turned(self.u - np.float32(u), self.v - np.float32(v), angle)
        uneven = np.float32(0.25 * radius) * cloud(along, across, self.rng, 1.2 * radius)
        return disc(along * stretch, across / stretch, radius) + uneven

    def line(self, half_width: float, length: float) -> tuple[Field, Field]:
        """Returns the distance to the edge of a bent line on the part, and the way along it."""
        u, v = self.place()
        angle, bend = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(-0.15, 0.15) * length
        way = np.linspace(-0.5, 0.5, 7)
        bow = bend * (1 - 4 * way**2) + 0.01 * length * self.rng.standard_normal(7)
        points_u, points_v = _turned(length * way, bow, angle)
        distance, along = stroke(self.u, self.v, np.stack([u + points_u, v + points_v], 1))
        return distance - np.float32(half_width), along

    @cached_property
    def on_part(self) -> Field:
        """How much each pixel belongs to the part, from 0 to 1, smooth at its edge."""
        return ndimage.gaussian_filter(self.part.astype(np.float32), 0.7)

    def around(self, share: Field) -> Float[np.ndarray, "3"]:
        """Returns the mean colour of what a shape covers."""
        weights = share / max(float(share.sum()), 1e-6)
        return (self.pixels * weights[..., None]).sum((0, 1))


def _scratch(s: Scene) -> Pixels:
    """Draws a hairline, or as many as it takes to cover the area."""
    half = s.rng.uniform(0.5, 1.2) * s.pixel
    length = s.rng.uniform(0.15, 1.2)
    covered = s.area * s.pixel**2 / (2 * half)
    pixels = s.pixels
    for _ in range(max(1, round(covered / length))):
        distance, way = s.line(half, min(length, covered))
        fade = np.sqrt(np.clip(6 * np.minimum(way, 1 - way), 0, 1)) * s.on_part
        share = s.cover(distance) * fade
        lighter = _sign(s.rng, s.around(share))
        flank = np.roll(share, s.rng.integers(1, 3), axis=int(s.rng.integers(2)))
        pixels = pixels * (1 - np.float32(0.15 * lighter) * flank[..., None])
        strength = np.float32(s.rng.uniform(0.35, 0.85))
        pixels = _mix(pixels, s.around(share) + lighter * s.rng.uniform(40, 120), strength * share)
    return pixels


def _cut(s: Scene) -> Pixels:
    """Draws a gash that tapers at both ends, with one lip lit."""
    half = max(0.5 * np.sqrt(s.area / s.rng.uniform(8, 20)), 0.7) * s.pixel
    distance, way = s.line(0.0, min(s.area * s.pixel**2 / (1.5 * half), 1.4))
    width = np.float32(half) * np.sqrt(np.clip(4 * way * (1 - way), 0.02, 1))
    ragged = distance - width + np.float32(0.3 * half) * cloud(s.u, s.v, s.rng, 4 * half)
    inside, wider = (s.cover(ragged - np.float32(w * s.pixel), 2.0) * s.on_part for w in (0, 1.5))
    lit = np.roll(wider - inside, (s.rng.integers(-1, 2), s.rng.integers(-1, 2)), (0, 1))
    pixels = s.pixels * (1 + np.float32(s.rng.uniform(0.1, 0.3)) * lit[..., None])
    deep = s.around(inside).mean() > 60
    bottom = pixels * s.rng.uniform(0.15, 0.4) if deep else pixels + s.rng.uniform(40, 110)
    rough = 1 + np.float32(0.15) * cloud(s.u, s.v, s.rng, 3 * s.pixel)
    return _mix(pixels, bottom * rough[..., None], np.float32(0.9) * inside)


def _stain(s: Scene) -> Pixels:
    blob = s.blob()
    soft = s.rng.uniform(1.5, 6.0)
    rim = np.exp(-((blob / np.float32(soft * s.pixel)) ** 2)) * np.float32(s.rng.uniform(0, 0.2))
    share = s.cover(blob, soft) * np.float32(s.rng.uniform(0.3, 0.8)) * s.on_part
    uneven = 1 + np.float32(0.15) * cloud(s.u, s.v, s.rng, 0.1)
    far = [c for c in _STAINS if np.abs(c - s.around(share)).max() > 50]
    chosen = far[s.rng.integers(len(far))]
    return _mix(s.pixels, chosen, np.clip((share + rim * (blob < 0) * s.on_part) * uneven, 0, 0.95))


def _dent(s: Scene) -> Pixels:
    """Draws a smooth hollow: the surface bends, one flank is lit, the other is in shadow."""
    u, v = s.place()
    reach = np.sqrt(s.area / np.pi)  # in pixels
    angle = s.rng.uniform(0, 2 * np.pi)
    along, across = _turned(s.u - np.float32(u), s.v - np.float32(v), angle)
    stretch = np.float32(s.rng.uniform(0.6, 1.6))
    away = (along * stretch) ** 2 + (across / stretch) ** 2
    depth = np.exp(-2 * away / np.float32((reach * s.pixel) ** 2))
    slope_v, slope_u = (s.on_part * slope for slope in np.gradient(depth * np.float32(reach)))
    light = s.rng.uniform(0, 2 * np.pi)
    facing = slope_u * np.float32(np.cos(light)) + slope_v * np.float32(np.sin(light))
    push = np.float32(s.rng.uniform(0.2, 0.5) * reach)
    row, column = np.indices(depth.shape, np.float32)
    bent = _sampled(s.pixels, [row + slope_v * push, column + slope_u * push], "nearest")
    lit = np.float32(s.rng.uniform(0.25, 0.5)) * facing
    # On a dark surface, light adds more than it multiplies.
    return bent * (1 + lit[..., None]) + np.float32(40) * lit[..., None]


def _piece(s: Scene) -> Pixels:
    return _pasted(s, s.pixels)


def _foreign(s: Scene) -> Pixels:
    return _pasted(s, s.other)


def _pasted(s: Scene, source: Pixels) -> Pixels:
    """Pastes a piece of `source`, turned and scaled, with a sharp edge or blended in."""
    blob = s.blob()
    inside = blob < 0
    if not inside.any():
        return s.pixels
    rows, columns = np.nonzero(s.part)
    one = s.rng.integers(len(rows))
    to = ndimage.center_of_mass(inside)
    angle, scale = s.rng.uniform(0, 2 * np.pi), s.rng.uniform(0.7, 1.4)
    row, column = np.indices(inside.shape, np.float32)
    along, across = _turned(column - np.float32(to[1]), row - np.float32(to[0]), angle)
    place = [across / scale + rows[one], along / scale + columns[one]]
    moved = _sampled(source, place, "reflect")
    if s.rng.random() < 0.5:
        return np.where(inside[..., None], moved + _membrane(s.pixels - moved, inside), s.pixels)
    return _mix(s.pixels, moved, s.cover(blob, s.rng.uniform(1, 3)))


def _erased(s: Scene) -> Pixels:
    segment = _segment(s)
    ring = ndimage.binary_dilation(segment, iterations=4) & ~segment
    if not ring.any():
        return s.pixels
    grain = s.pixels - ndimage.gaussian_filter(s.pixels, (2, 2, 0))
    usual = 3.0 * np.median(np.abs(grain[s.part]))  # Edges are not grain.
    drawn = grain[ring][s.rng.integers(ring.sum(), size=int(segment.sum()))].clip(-usual, usual)
    filled = s.pixels.copy()
    filled[segment] = _membrane(s.pixels, segment)[segment] + drawn
    return filled


def _doubled(s: Scene) -> Pixels:
    segment = _segment(s)
    rows, columns = np.nonzero(segment)
    middle = np.array([rows.mean(), columns.mean()])
    reach = np.sqrt(segment.sum())
    places = np.argwhere(s.part)
    away = places[np.hypot(*(places - middle).T) > reach]
    if not len(away):
        return s.pixels
    to = away[s.rng.integers(len(away))]
    angle = s.rng.uniform(0, 2 * np.pi)
    row, column = np.indices(segment.shape, np.float32)
    along, across = _turned(column - to[1], row - to[0], angle)
    place = [across + np.float32(middle[0]), along + np.float32(middle[1])]
    share = ndimage.map_coordinates(
        ndimage.gaussian_filter(segment.astype(np.float32), 0.7), place, order=1
    )
    return _mix(s.pixels, _sampled(s.pixels, place, "constant"), share)


# Functions that plant each kind of defect.
KINDS: dict[str, Callable[[Scene], Pixels]] = {
    "scratch": _scratch,
    "cut": _cut,
    "stain": _stain,
    "dent": _dent,
    "piece": _piece,
    "foreign": _foreign,
    "erased": _erased,
    "doubled": _doubled,
}


def _segment(s: Scene) -> Bool[np.ndarray, "h w"]:
    """Returns a region of the part set apart by its colour, of about the area; else a blob."""
    smooth = ndimage.gaussian_filter(s.pixels, (1, 1, 0)).astype(np.uint8)
    quantised = np.asarray(Image.fromarray(smooth).quantize(COLOURS))
    fitting = []
    for level in range(COLOURS):
        labels, _ = ndimage.label((quantised == level) & s.part)
        areas = np.bincount(labels.ravel())
        for label in np.flatnonzero((areas > 0.5 * s.area) & (areas < 2 * s.area)):
            if label:
                fitting.append(labels == label)
    if not fitting:
        return s.blob() < 0
    chosen = fitting[s.rng.integers(len(fitting))]
    return ndimage.binary_dilation(ndimage.binary_fill_holes(chosen), iterations=1)


def _membrane(values: Pixels, inside: Bool[np.ndarray, "h w"]) -> Pixels:
    """Returns the smoothest surface inside that meets the values around it; 0 elsewhere."""
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(int(inside.sum()))
    padded = np.pad(number, 1, constant_values=-2)
    around = np.pad(values, [(1, 1), (1, 1), (0, 0)])
    rows, columns = np.nonzero(inside)
    count = len(rows)
    degree = np.zeros(count)
    right = np.zeros((count, 3))
    links: list[tuple[np.ndarray, np.ndarray]] = []
    for down, aside in ((0, 1), (2, 1), (1, 0), (1, 2)):
        neighbour = padded[rows + down, columns + aside]
        degree += neighbour != -2
        known = neighbour == -1
        right[known] += around[rows + down, columns + aside][known]
        unknown = neighbour >= 0
        links.append((np.flatnonzero(unknown), neighbour[unknown]))
    first, second = (np.concatenate(ends) for ends in zip(*links, strict=True))
    system = sparse.diags_array(degree) - sparse.coo_array(
        (np.ones(len(first)), (first, second)), shape=(count, count)
    )
    surface = np.zeros_like(values)
    surface[inside] = spsolve(system.tocsc(), right).reshape(count, 3)
    return surface


def _sampled(pixels: Pixels, place: list[Field], outside: str) -> Pixels:
    """Samples an image at a row and column for each pixel; `outside` is a mode of scipy."""
    return np.stack(
        [ndimage.map_coordinates(pixels[..., c], place, order=1, mode=outside) for c in range(3)],
        axis=-1,
    )


def _turned(u: Any, v: Any, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * u + sine * v, cosine * v - sine * u


def _mix(pixels: Pixels, over: Pixels | Float[np.ndarray, "3"], share: Field) -> Pixels:
    return pixels + share[..., None] * (over - pixels)


def _sign(rng: np.random.Generator, around: Float[np.ndarray, "3"]) -> float:
    """Draws 1 for lighter or -1 for darker, more often the one that there is room for."""
    room = 0.3 + 0.4 * (around.mean() < 128)
    return 1.0 if rng.random() < room else -1.0

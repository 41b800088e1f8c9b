"""Defects of the generated parts, at every scale.

- hairline: a scratch one to two pixels wide at 256 pixels;
- small: one to three pits, a chip out of the plate's edge, or a spot;
- large: a stain, a dent, a gouge or corrosion;
- missing_component: a bolt, a dowel pin, the gasket or the connector is missing.

All but the last are painted on a finished part, in sizes relative to it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ddad_jax.data import machined_part as part
from ddad_jax.data.shapes import Board, Field, box, cloud, colour, disc, stroke

DEFECTS = ("hairline", "small", "large", "missing_component")

_SPOTS = (colour(0.1, 0.12, 0.3), colour(0.12, 0.1, 0.08), colour(0.93, 0.93, 0.9))
_OIL = colour(0.33, 0.23, 0.11)
_RUST = colour(0.42, 0.2, 0.08)
_BARE = colour(0.85, 0.86, 0.88)


def draw_missing(rng: np.random.Generator) -> str:
    """Chooses the missing component; each kind of component is equally likely."""
    kinds = sorted({name.split()[0] for name in part.COMPONENTS})
    kind = kinds[rng.integers(len(kinds))]
    names = [name for name in part.COMPONENTS if name.split()[0] == kind]
    return names[rng.integers(len(names))]


def paint_defect(board: Board, scale: str, rng: np.random.Generator) -> None:
    """Paints a defect of one of the first three `DEFECTS` on a painted part."""
    painters = _PAINTERS[scale]
    painters[rng.integers(len(painters))](board, rng)


def _paint_hairline(board: Board, rng: np.random.Generator) -> None:
    points = _draw_line(rng, length=rng.uniform(0.5, 0.9), bend=0.06)
    distance, way = stroke(board.u, board.v, points)
    half_width = max(rng.uniform(0.5, 0.8) * 2 / 256, 0.5 * board.pixel)
    fade = np.sqrt(np.clip(6 * np.minimum(way, 1 - way), 0, 1)) * _metal(board)
    # The far flank of a scratch lies in its own shadow.
    flank, _ = stroke(
        board.u + board.light[0] * board.pixel, board.v + board.light[1] * board.pixel, points
    )
    board.shade(np.float32(-0.2) * fade * board.cover(flank - np.float32(half_width)))
    share = np.float32(rng.uniform(0.75, 1)) * fade
    board.fill(_BARE, share * board.cover(distance - np.float32(half_width)))


def _paint_pits(board: Board, rng: np.random.Generator) -> None:
    centre = _draw_place(rng, margin=0.1)
    for _ in range(rng.integers(1, 4)):
        u, v = centre + rng.uniform(-0.08, 0.08, 2)
        radius = rng.uniform(0.018, 0.032)
        ragged = disc(board.u - np.float32(u), board.v - np.float32(v), radius)
        board.bevel(-ragged, 0.02, -0.3)
        board.fill(colour(0.12, 0.11, 0.1), np.float32(0.9) * board.cover(ragged))


def _paint_chip(board: Board, rng: np.random.Generator) -> None:
    along, side = rng.uniform(-0.65, 0.65), rng.integers(4)
    edge = part.PLATE_HALF + rng.uniform(-0.005, 0.015)
    u, v = ((along, -edge), (edge, along), (along, edge), (-edge, along))[side]
    radius = rng.uniform(0.04, 0.065)
    du, dv = board.u - np.float32(u), board.v - np.float32(v)
    rough = np.float32(0.12 * radius) * cloud(du, dv, rng, radius / 2)
    bite = np.maximum(
        disc(du, dv, radius) + rough, part.plate_distance(board.u, board.v) - np.float32(0.002)
    )
    board.bevel(bite - np.float32(0.016), 0.016, -0.5)
    board.fill(colour(0.07, 0.075, 0.085), board.cover(bite))


def _paint_spot(board: Board, rng: np.random.Generator) -> None:
    u, v = _draw_place(rng, margin=0.08)
    radius = rng.uniform(0.025, 0.042)
    du, dv = board.u - np.float32(u), board.v - np.float32(v)
    drop = disc(du, dv, radius) + np.float32(0.1 * radius) * cloud(du, dv, rng, radius)
    board.fill(_SPOTS[rng.integers(len(_SPOTS))], np.float32(0.85) * board.cover(drop))


def _paint_stain(board: Board, rng: np.random.Generator) -> None:
    u, v = rng.uniform(-0.55, 0.55, 2)
    blot = _blot(board, rng, u, v, rng.uniform(0.22, 0.34))
    body = board.cover(part.plate_distance(board.u, board.v) + np.float32(0.01))
    # A drop that dries leaves most at its rim.
    rim = np.exp(-((blot / np.float32(0.02)) ** 2)) * np.float32(0.2)
    inner = np.clip(0.5 - blot / np.float32(0.03), 0, 1) * np.float32(rng.uniform(0.35, 0.55))
    board.fill(_OIL, np.clip(inner + rim, 0, 1) * body)


def _paint_dent(board: Board, rng: np.random.Generator) -> None:
    u, v = _draw_place(rng, margin=0.1)
    radius = rng.uniform(0.09, 0.14)
    du, dv = (board.u - np.float32(u)) / radius, (board.v - np.float32(v)) / radius
    hollow = np.exp(-0.5 * (du * du + dv * dv)).astype(np.float32)
    slope = (du * np.float32(board.light[0]) + dv * np.float32(board.light[1])) * hollow
    body = board.cover(part.plate_distance(board.u, board.v))
    board.shade((np.float32(-0.75) * slope - np.float32(0.12) * hollow).astype(np.float32) * body)


def _paint_gouge(board: Board, rng: np.random.Generator) -> None:
    points = _draw_line(rng, length=rng.uniform(0.45, 0.75), bend=0.1)
    distance, way = stroke(board.u, board.v, points)
    width = np.float32(rng.uniform(0.02, 0.032)) * np.sqrt(np.clip(5 * way * (1 - way), 0.1, 1))
    ragged = distance - width + np.float32(0.004) * cloud(board.u, board.v, rng, 0.04)
    metal = _metal(board)
    board.fill(_BARE, metal * np.float32(0.8) * board.cover(ragged - np.float32(0.012)))
    torn = 1 + np.float32(0.3) * cloud(board.u, board.v, rng, 0.03)
    board.fill(torn[:, :, None] * colour(0.2, 0.2, 0.21), metal * board.cover(ragged))


def _paint_corrosion(board: Board, rng: np.random.Generator) -> None:
    u, v = rng.uniform(-0.6, 0.6, 2)
    blot = _blot(board, rng, u, v, rng.uniform(0.18, 0.28))
    share = np.clip(0.5 - blot / np.float32(0.08), 0, 1) * _metal(board)
    crust = 1 + np.float32(0.3) * cloud(board.u, board.v, rng, 0.035)
    board.fill(crust[:, :, None] * _RUST, np.float32(0.75) * share)


_PAINTERS: dict[str, tuple[Callable[[Board, np.random.Generator], None], ...]] = {
    "hairline": (_paint_hairline,),
    "small": (_paint_pits, _paint_chip, _paint_spot),
    "large": (_paint_stain, _paint_dent, _paint_gouge, _paint_corrosion),
}


def _blot(board: Board, rng: np.random.Generator, u: float, v: float, radius: float) -> Field:
    """Returns the distance to a blot of uneven outline."""
    du, dv = board.u - np.float32(u), board.v - np.float32(v)
    stretch = np.float32(rng.uniform(0.8, 1.25))
    return disc(du * stretch, dv / stretch, radius) + np.float32(0.2 * radius) * cloud(
        du, dv, rng, radius / 1.5
    )


def _to_metal(u: Field, v: Field) -> Field:
    """Returns the distance to the open metal of plate and boss, negative on it."""
    radius = np.hypot(u, v)
    gasket = np.abs(radius - np.float32(part.GASKET_RADIUS)) - np.float32(part.GASKET_HALF)
    slot_u, slot_v = part.SLOT_PLACE
    plug_u, plug_v = part.CONNECTOR_PLACE
    half_u, half_v = part.CONNECTOR_HALF
    # The part is symmetrical: one bolt and one dowel pin stand for all.
    (bolt_u, bolt_v), (pin_u, _) = part.BOLT_PLACES[3], part.PIN_PLACES[1]
    obstacles = (
        radius - np.float32(part.BORE_RADIUS),
        gasket,
        disc(
            np.abs(u) - np.float32(bolt_u), np.abs(v) - np.float32(bolt_v), part.COUNTERBORE_RADIUS
        ),
        disc(np.abs(u) - np.float32(pin_u), v, part.DOWEL_RADIUS + 0.02),
        box(u - np.float32(plug_u), v - np.float32(plug_v), half_u + 0.02, half_v + 0.02, 0.03),
        box(u - np.float32(slot_u), v - np.float32(slot_v), *part.SLOT_HALF, part.SLOT_HALF[1]),
    )
    distance = part.plate_distance(u, v) + np.float32(0.035)
    for obstacle in obstacles:
        distance = np.maximum(distance, -obstacle)
    return distance


def _metal(board: Board) -> Field:
    """Returns the share of each pixel that is open metal."""
    return board.cover(_to_metal(board.u, board.v))


def _is_metal(points: Float[np.ndarray, "k 2"], margin: float) -> np.ndarray:
    points = points.astype(np.float32)
    return _to_metal(points[:, :1], points[:, 1:])[:, 0] < -margin


def _draw_place(rng: np.random.Generator, margin: float) -> Float[np.ndarray, "2"]:
    """Draws a place on open metal, `margin` away from all else; a fixed place if none is found."""
    places = rng.uniform(-part.PLATE_HALF, part.PLATE_HALF, (256, 2))
    clear = places[_is_metal(places, margin)]
    return clear[0] if len(clear) else np.array([0.35, 0.62])


def _draw_line(rng: np.random.Generator, length: float, bend: float) -> Float[np.ndarray, "5 2"]:
    """Draws slightly bent lines, and returns the one that lies most on open metal."""
    way = np.linspace(-0.5, 0.5, 5)
    best, most = np.zeros((5, 2)), -1.0
    for _ in range(12):
        angle = rng.uniform(0, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        centre = rng.uniform(-0.6, 0.6, 2)
        bow = rng.uniform(-bend, bend) * (1 - 4 * way**2)
        points = centre + length * way[:, None] * along + bow[:, None] * across
        dense = centre + length * np.linspace(-0.5, 0.5, 41)[:, None] * along
        share = _is_metal(dense, 0.02).mean()
        if share > most:
            best, most = points, share
    return best

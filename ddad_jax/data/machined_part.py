"""A generated machined part: a brushed plate and everything mounted on it.

From back to front: a dark mat, a milled and brushed aluminium plate with chamfered edges
and an engraved slot, a turned boss with a bore and a gasket in its groove, four socket-head bolts
in counterbores, two dowel pins, and a connector with gold pins.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from ddad_jax.data.shapes import Board, Field, Pose, box, cloud, colour, disc, hexagon

PLATE_HALF = 0.82
PLATE_CORNER = 0.10
BOLT_PLACES = ((-0.58, -0.58), (0.58, -0.58), (-0.58, 0.58), (0.58, 0.58))
PIN_PLACES = ((-0.62, 0.0), (0.62, 0.0))
SLOT_PLACE, SLOT_HALF = (0.0, -0.62), (0.2, 0.035)
CONNECTOR_PLACE, CONNECTOR_HALF = (0.0, 0.62), (0.26, 0.095)
BOSS_RADIUS, GASKET_RADIUS, GASKET_HALF, BORE_RADIUS = 0.4, 0.27, 0.032, 0.15
COUNTERBORE_RADIUS, BOLT_RADIUS = 0.155, 0.125
DOWEL_RADIUS = 0.06
COMPONENTS = (
    *(f"bolt {index}" for index in range(len(BOLT_PLACES))),
    *(f"dowel {index}" for index in range(len(PIN_PLACES))),
    "gasket",
    "connector",
)

_MAT = colour(0.085, 0.09, 0.1)
_TURNED = colour(0.66, 0.665, 0.67)
_HOLE = colour(0.045, 0.045, 0.05)
_GROOVE = colour(0.4, 0.4, 0.41)
_STEEL = colour(0.27, 0.275, 0.29)
_DOWEL = colour(0.74, 0.74, 0.75)
_GOLD = colour(0.85, 0.66, 0.28)


@dataclass(frozen=True)
class Design:
    """The colours of a design, as RGB reflectances.

    Attributes:
        plate: of the plate.
        gasket: of the gasket.
        connector: of the connector's body.
    """

    plate: Float[np.ndarray, "3"]
    gasket: Float[np.ndarray, "3"]
    connector: Float[np.ndarray, "3"]


# By name; parts of the second are anodised blue, with a black gasket and a light connector.
DESIGNS = {
    "aluminium": Design(
        colour(0.58, 0.595, 0.61), colour(0.5, 0.13, 0.08), colour(0.1, 0.1, 0.105)
    ),
    "anodised": Design(colour(0.15, 0.26, 0.46), colour(0.09, 0.09, 0.1), colour(0.62, 0.61, 0.57)),
}


@dataclass(frozen=True)
class Part:
    """What distinguishes one good part, and its picture, from another.

    Attributes:
        pose: where it lies.
        light_angle: where light comes from, in radians clockwise from the right of the image.
        light_gradient: how much brighter the lit side is than the middle, as a fraction.
        exposure: overall brightness; 1 is nominal.
        vignette: how much darker the corners are, as a fraction.
        tint: factors of the three channels.
        noise: about the standard deviation of the sensor's noise at mid-grey, in levels of 255.
        hex_angles: how far each bolt is turned, in radians.
        texture_seed: of brushing, turning marks and mat.
        noise_seed: of the sensor's noise.
    """

    pose: Pose
    light_angle: float
    light_gradient: float
    exposure: float
    vignette: float
    tint: Float[np.ndarray, "3"]
    noise: float
    hex_angles: Float[np.ndarray, "4"]
    texture_seed: int
    noise_seed: int


def draw_part(rng: np.random.Generator, size: int, variation: float) -> Part:
    """Draws a good part; with `variation` 0 pose and light are always the same, 1 is usual."""

    def around(centre: float, spread: float) -> float:
        return centre + variation * spread * rng.uniform(-1, 1)

    return Part(
        pose=Pose(
            size=size,
            angle=np.deg2rad(around(0.0, 4.0)),
            shift=(around(0.0, 0.03), around(0.0, 0.03)),
            scale=around(1.0, 0.02),
        ),
        light_angle=np.deg2rad(around(-125.0, 20.0)),
        light_gradient=around(0.1, 0.06),
        exposure=around(1.0, 0.08),
        vignette=around(0.12, 0.06),
        tint=1 + variation * rng.uniform(-0.015, 0.015, 3).astype(np.float32),
        noise=around(1.4, 0.5),
        hex_angles=rng.uniform(0, np.pi / 3, 4),
        texture_seed=int(rng.integers(2**63)),
        noise_seed=int(rng.integers(2**63)),
    )


def paint_part(part: Part, design: Design, missing: str | None = None) -> Board:
    """Paints the part without light or noise; `missing` names the component left out, if any."""
    u, v = part.pose.coordinates
    rng = np.random.default_rng(part.texture_seed)
    towards = part.light_angle - part.pose.angle
    paint = np.empty((*u.shape, 3), np.float32)
    light = (float(np.cos(towards)), float(np.sin(towards)))
    board = Board(paint, u, v, part.pose.pixel, light)
    _paint_plate(board, rng, design)
    gasket = None if missing == "gasket" else design.gasket
    _paint_boss(board.at(part.pose, 0.0, 0.0, BOSS_RADIUS + 0.08), rng, gasket)
    for index, (place, angle) in enumerate(zip(BOLT_PLACES, part.hex_angles, strict=True)):
        window = board.at(part.pose, *place, COUNTERBORE_RADIUS + 0.03)
        _paint_bolt(window, angle, missing != f"bolt {index}")
    for index, place in enumerate(PIN_PLACES):
        window = board.at(part.pose, *place, DOWEL_RADIUS + 0.05)
        _paint_dowel(window, missing != f"dowel {index}")
    window = board.at(part.pose, *CONNECTOR_PLACE, CONNECTOR_HALF[0] + 0.08)
    _paint_connector(window, None if missing == "connector" else design.connector)
    return board


def photograph(part: Part, board: Board) -> UInt8[np.ndarray, "size size 3"]:
    """Lights the painted part and takes its picture."""
    size = part.pose.size
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    towards = x * np.float32(np.cos(part.light_angle)) + y * np.float32(np.sin(part.light_angle))
    light = (1 + np.float32(part.light_gradient) * towards) * np.float32(part.exposure)
    light *= 1 - np.float32(part.vignette / 2) * (x * x + y * y)
    levels = board.paint * light[:, :, None] * (part.tint * np.float32(255))
    # Shot noise grows with the root of the signal; the channels share half of the noise's variance,
    # as after demosaicing.
    rng = np.random.default_rng(part.noise_seed)
    noise = rng.standard_normal((size, size, 4), np.float32) * np.float32(part.noise)
    grain = np.sqrt(np.maximum(levels, 0) * np.float32(1 / 128) + np.float32(0.2))
    levels += grain * (noise[:, :, :3] * np.float32(0.7) + noise[:, :, 3:] * np.float32(0.7))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def plate_distance(u: Field, v: Field) -> Field:
    """Returns the distance to the plate's outline, negative on the plate."""
    return box(u, v, PLATE_HALF, PLATE_HALF, PLATE_CORNER)


def _paint_plate(board: Board, rng: np.random.Generator, design: Design) -> None:
    u, v = board.u, board.v
    board.paint[:] = _MAT
    board.shade(np.float32(0.1) * cloud(u, v, rng, 0.05, octaves=1))
    outline = plate_distance(u, v)
    shadow = box(
        u + np.float32(0.04 * board.light[0]),
        v + np.float32(0.04 * board.light[1]),
        PLATE_HALF,
        PLATE_HALF,
        PLATE_CORNER,
    )
    board.shade(-0.6 * np.clip(0.5 - shadow / np.float32(0.08), 0, 1))
    board.fill(_brushed(board, rng)[:, :, None] * design.plate, board.cover(outline))
    board.bevel(outline, 0.035, 0.42)
    window_u, window_v = u - np.float32(SLOT_PLACE[0]), v - np.float32(SLOT_PLACE[1])
    slot = box(window_u, window_v, *SLOT_HALF, SLOT_HALF[1])
    _sink(board, slot, _GROOVE * np.float32(0.8), 0.02)


def _brushed(board: Board, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Returns the brightness of metal brushed along u: streaks long in u, about a pixel thin."""
    streaks = rng.standard_normal((256, 12)).astype(np.float32)
    streaks[:, -1] = streaks[:, 0]
    row = (board.v + 1.5) * np.float32(256 / 3)
    column = np.clip((board.u + 1.5) * np.float32(11 / 3), 0, 10.99)
    low_row, low_column = row.astype(np.int32), column.astype(np.int32)
    x, y = column - low_column, row - low_row
    low, high = low_row % 256, (low_row + 1) % 256
    upper = streaks[low, low_column] * (1 - x) + streaks[low, low_column + 1] * x
    lower = streaks[high, low_column] * (1 - x) + streaks[high, low_column + 1] * x
    texture = np.float32(0.022) * (upper * (1 - y) + lower * y)
    # The brushed surface reflects in a wide band across the brushing.
    sheen = np.float32(0.07) * np.cos(np.float32(2.2) * (board.v - np.float32(0.25)))
    return 1 + texture + sheen


def _paint_boss(
    board: Board, rng: np.random.Generator, gasket: Float[np.ndarray, "3"] | None
) -> None:
    radius = np.hypot(board.u, board.v)
    _cast_shadow(board, BOSS_RADIUS, 0.05)
    marks = rng.standard_normal(96).astype(np.float32) * np.float32(0.02)
    rings = np.interp(radius, np.linspace(0, 0.5, 96), marks).astype(np.float32)
    # A turned face shines in two opposite sectors that follow the light.
    along = (board.u * board.light[0] + board.v * board.light[1]) / np.maximum(radius, 0.02)
    sheen = np.float32(0.16) * (2 * along * along - 1) * np.minimum(radius / 0.1, 1)
    face = (1 + rings + sheen.astype(np.float32))[:, :, None] * _TURNED
    board.fill(face, board.cover(radius - np.float32(BOSS_RADIUS)))
    board.bevel(radius - np.float32(BOSS_RADIUS), 0.028, 0.38)
    groove = np.abs(radius - np.float32(GASKET_RADIUS)) - np.float32(GASKET_HALF)
    _sink(board, groove, _GROOVE, 0.012)
    if gasket is not None:
        across = (radius - np.float32(GASKET_RADIUS)) / np.float32(GASKET_HALF)
        facing = across * along
        highlight = np.float32(0.75) * np.exp(-(((facing - 0.45) / 0.3) ** 2))
        roundness = 0.55 + 0.45 * np.sqrt(np.maximum(1 - across * across, 0))
        rubber = (roundness + highlight * 0.6)[:, :, None].astype(np.float32) * gasket
        board.fill(rubber, board.cover(groove + np.float32(0.003)))
    _sink(board, radius - np.float32(BORE_RADIUS), _HOLE, 0.022, depth=0.5)


def _paint_bolt(board: Board, angle: float, present: bool) -> None:
    radius = np.hypot(board.u, board.v)
    _sink(board, radius - np.float32(COUNTERBORE_RADIUS), _GROOVE * np.float32(0.62), 0.016)
    if not present:
        _sink(board, radius - np.float32(BOLT_RADIUS * 0.56), _HOLE, 0.02, depth=0.4)
        thread = np.abs(radius - np.float32(BOLT_RADIUS * 0.44)) - np.float32(0.006)
        board.fill(_GROOVE, np.float32(0.35) * board.cover(thread))
        return
    _cast_shadow(board, BOLT_RADIUS, 0.03)
    head = radius - np.float32(BOLT_RADIUS)
    towards = board.u * np.float32(board.light[0]) + board.v * np.float32(board.light[1])
    gloss = 1 + towards * np.float32(2.2)
    board.fill(gloss[:, :, None] * _STEEL, board.cover(head))
    board.bevel(head, 0.026, 0.9)
    socket = hexagon(board.u, board.v, BOLT_RADIUS * 0.5, angle)
    _sink(board, socket, _HOLE * np.float32(0.8), 0.012, depth=0.5)


def _paint_dowel(board: Board, present: bool) -> None:
    radius = np.hypot(board.u, board.v)
    _sink(board, radius - np.float32(DOWEL_RADIUS + 0.012), _HOLE, 0.014, depth=0.3)
    if present:
        pin = radius - np.float32(DOWEL_RADIUS)
        board.fill(np.broadcast_to(_DOWEL, board.paint.shape), board.cover(pin))
        board.bevel(pin, 0.024, 0.3)


def _paint_connector(board: Board, colour_of_body: Float[np.ndarray, "3"] | None) -> None:
    seat = box(board.u, board.v, CONNECTOR_HALF[0] + 0.02, CONNECTOR_HALF[1] + 0.02, 0.03)
    _sink(board, seat, _GROOVE * np.float32(0.85), 0.014)
    pins = [0.078 * step for step in range(-2, 3)]
    if colour_of_body is None:
        for pin in pins:
            hole = disc(board.u - np.float32(pin), board.v, 0.017)
            board.fill(_HOLE, board.cover(hole))
        return
    body = box(board.u, board.v, *CONNECTOR_HALF, 0.02)
    board.fill(np.broadcast_to(colour_of_body, board.paint.shape), board.cover(body))
    board.bevel(body, 0.018, 0.9)
    well = box(board.u, board.v, CONNECTOR_HALF[0] - 0.04, CONNECTOR_HALF[1] - 0.035, 0.015)
    _sink(board, well, _HOLE, 0.01, depth=0.2)
    for pin in pins:
        contact = box(board.u - np.float32(pin), board.v, 0.02, 0.042, 0.008)
        board.fill(_GOLD, board.cover(contact))
        board.bevel(contact, 0.012, 0.35)


def _sink(
    board: Board, distance: Field, floor: np.ndarray, chamfer: float, depth: float = 0.25
) -> None:
    """Cuts a recess with a lit chamfer; its floor is in shadow on the side towards the light."""
    slope_v, slope_u = np.gradient(distance, np.float32(board.pixel))
    facing = slope_u * np.float32(board.light[0]) + slope_v * np.float32(board.light[1])
    rim = board.cover(distance - np.float32(chamfer)) * (1 - board.cover(distance))
    board.shade(np.float32(-0.32) * rim * facing)
    wall = np.exp(np.minimum(distance, 0) / np.float32(0.05)) * np.maximum(facing, 0)
    shadow = 1 - np.float32(depth) * wall
    board.fill(shadow[:, :, None] * floor, board.cover(distance))


def _cast_shadow(board: Board, radius: float, length: float) -> None:
    """Darkens what lies in the shadow of a raised disc."""
    u = board.u + np.float32(length * board.light[0])
    v = board.v + np.float32(length * board.light[1])
    board.shade(np.float32(-0.45) * np.clip(0.5 - disc(u, v, radius) / np.float32(length), 0, 1))

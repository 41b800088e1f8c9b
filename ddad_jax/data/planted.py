"""Plants defects in photographs of good parts, so that their place and the original are known."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage
from tqdm import tqdm

from ddad_jax.data.defect_kinds import KINDS, Scene
from ddad_jax.data.image_set import ImageSet
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.data.synthetic import visible_difference
from ddad_jax.machine.parallel import map_in_threads

# The share of the image that a defect of each size covers, from least to most.
SIZES = {
    "tiny": (0.0003, 0.001),
    "small": (0.001, 0.004),
    "medium": (0.004, 0.015),
    "large": (0.015, 0.06),
}
# A defect is accepted from this share of the least size up to the largest divided by it.
ENOUGH = 0.4
TRIES = 12


@dataclass(frozen=True, eq=False)
class Planted:
    """A photograph with a planted defect.

    Attributes:
      image: with the defect.
      original: without it; outside the mask both differ by less than `synthetic.VISIBLE` levels.
      mask: where the defect is.
      kind: one of `KINDS`.
      size: one of `SIZES`.
      row: the index, in its set, of the image that it is planted in.
    """

    image: UInt8[np.ndarray, "h w 3"]
    original: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    kind: str
    size: str
    row: int = 0


def plant(
    image: UInt8[np.ndarray, "h w 3"],
    part: Bool[np.ndarray, "h w"],
    others: Sequence[UInt8[np.ndarray, "h w 3"]],
    kind: str,
    size: str,
    seed: int = 0,
) -> Planted | None:
    """Plants a defect; the same arguments always give the same one.

    Args:
      image: a good part.
      part: where the part is, as `find_part` says.
      others: images of other good parts; may be empty.
      kind: one of `KINDS`.
      size: one of `SIZES`.
      seed: of everything that is drawn.

    Returns:
      None if the image does not allow it: a piece pasted onto the same colour shows nothing.
    """
    digest = hashlib.blake2b(f"{seed} {kind} {size}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).data)
    rng = np.random.default_rng(int.from_bytes(digest.digest(), "big"))
    height, width = image.shape[:2]
    longest = max(height, width)
    u = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)) * np.float32(2 / longest)
    v = (np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)) * np.float32(
        2 / longest
    )
    for _ in range(TRIES):
        area = float(np.exp(rng.uniform(*np.log(SIZES[size])))) * height * width
        other = others[int(rng.integers(len(others)))] if len(others) else image
        scene = Scene(
            pixels=image.astype(np.float32),
            part=part,
            other=other.astype(np.float32),
            u=np.broadcast_to(u, (height, width)),
            v=np.broadcast_to(v[:, None], (height, width)),
            area=area,
            rng=rng,
        )
        changed = np.rint(np.clip(KINDS[kind](scene), 0, 255)).astype(np.uint8)
        mask = visible_difference(changed, image)
        low, high = SIZES[size]
        if ENOUGH * low <= mask.mean() <= high / ENOUGH and (mask & part).any():
            # Differences too small to see are undone, except beside the mask.
            shown = np.where(ndimage.binary_dilation(mask)[..., None], changed, image)
            return Planted(shown, image, mask, kind, size)
    return None


def plant_in_set(images: ImageSet, count: int, seed: int = 0) -> tuple[ImageSet, list[Planted]]:
    """Returns the images of a set and, after them, copies with planted defects, as test images.

    Every kind and size is planted equally often, and every image is used equally often. Each tile
    of a tiled photograph is an image.

    Args:
      images: of good parts.
      count: how many defects; those that the images do not allow are left out.
      seed: of everything that is drawn.

    Returns:
      The images, those without a defect first; and for each of the others, what was planted. Its
      kind is the name of the image's defect.
    """
    rng = np.random.default_rng(seed)
    squares = np.asarray(images.squares)
    parts = [part for _, part in map_in_threads(find_part, list(squares))]
    cells = [(kind, size) for kind in KINDS for size in SIZES]
    turns = -(-count // len(cells)), -(-count // len(squares))
    cells = [cells[each] for _ in range(turns[0]) for each in rng.permutation(len(cells))]
    rows = [int(row) for _ in range(turns[1]) for row in rng.permutation(len(squares))]

    def planted(number: int) -> Planted | None:
        row, (kind, size) = rows[number], cells[number]
        others = [*squares[:row], *squares[row + 1 :]]
        found = plant(squares[row], parts[row], others, kind, size, seed + number)
        return found and replace(found, row=row)

    results = map_in_threads(planted, range(count))
    bar = tqdm(results, total=count, desc="plant", unit="defect", disable=None)
    found = [(number, each) for number, each in bar if each is not None]
    category = images.samples[0].category
    samples = [
        Sample(f"good/{row:04d}", NORMAL, "good", "test", category) for row in range(len(squares))
    ]
    samples += [
        Sample(f"{each.kind}/{each.size}_{number:04d}", ANOMALOUS, each.kind, "test", category)
        for number, each in found
    ]
    shown = np.concatenate([squares, *(each.image[None] for _, each in found)])
    masks = np.zeros(shown.shape[:3], bool)
    for row, (_, each) in enumerate(found, len(squares)):
        masks[row] = each.mask
    together = ImageSet(
        samples=tuple(samples),
        squares=shown,
        starts=np.arange(len(shown) + 1),
        masks=masks,
        has_mask=np.ones(len(shown), bool),
        sizes=np.full((len(shown), 2), shown.shape[1]),
        contents=("",) * len(shown),
    )
    return together, [each for _, each in found]


def find_part(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Returns where the part is: everything but pixels of the border's colour connected to it.

    If that is less than 5 % or more than 95 % of the image, the part is taken to fill the image.
    """
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (2, 2, 0))
    sides = (smooth[:2], smooth[-2:], smooth[:, :2], smooth[:, -2:])
    border = np.concatenate([side.reshape(-1, 3) for side in sides])
    usual = np.median(border, 0)
    spread = np.median(np.abs(border - usual).max(-1))
    alike = np.abs(smooth - usual).max(-1) <= max(4.0 * spread, 12.0)
    labels, _ = ndimage.label(alike)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    part = ~np.isin(labels, edge[edge > 0])
    part = ndimage.binary_opening(ndimage.binary_fill_holes(part), iterations=2)
    return part if 0.05 <= part.mean() <= 0.95 else np.ones_like(part)

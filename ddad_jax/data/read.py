"""Image and mask files of any kind, each decoded by one stated rule.

Images become 8-bit RGB:
- turned upright as their EXIF orientation says; of several frames, the first counts;
- grey is repeated in the three channels; palettes are looked up;
- transparency is composited on white;
- 16-bit grey is scaled so that `white_level` becomes 255, never by the content of the image, since
  that would hide a part too bright or too dark; 16-bit colour keeps its upper byte;
- floating point is taken as 0 (black) to 1 (white);
- CMYK and YCbCr are converted by formula, without colour profiles.

Masks become boolean. Colour counts by its brightest channel, transparent is background, then:
- rule "nonzero": anything but 0 is a defect;
- rule "half": half of the range and above is a defect;
- rule "auto": "half" if any value reaches half of the range, otherwise "nonzero", so that both
  0/255 drawings (also when smoothed or JPEG-compressed) and 0/1 class numbers are read as meant.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from ddad_jax.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MASK_RULES = ("auto", "nonzero", "half")
SMALLEST_SIDE = 8
FULL_RANGE = 65535
_ORIENTATION = 0x0112
# Orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)


def read_image(path: Path, white_level: int = FULL_RANGE) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file as RGB.

    Args:
        path: a file of any of the kinds in `IMAGE_SUFFIXES`.
        white_level: the value of a 16-bit grey image that stands for white (4095 for 12-bit
            cameras that leave the upper bits empty).

    Raises:
        UserError: naming the file and why it cannot be used.
    """
    return decode_image(_read_bytes(path), str(path), white_level)


def decode_image(
    encoded: bytes, name: str, white_level: int = FULL_RANGE
) -> UInt8[np.ndarray, "h w 3"]:
    """`read_image` for the bytes of a file; errors call it `name`."""
    image = _decode(encoded, name)
    if min(image.size) < SMALLEST_SIDE:
        raise UserError(
            f"{name}: is {image.width}×{image.height} pixels; "
            f"at least {SMALLEST_SIDE}×{SMALLEST_SIDE} are needed"
        )
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_deep_grey(image, name, white_level)[:, :, None], 3, axis=2)
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise UserError(
            f"{name}: colours of mode {image.mode} are not supported; save it as RGB"
        ) from error


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file once it is upright, from its header alone.

    Raises:
        UserError: naming the file and why it cannot be used.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
    except Exception as error:
        # `read_image` finds the same fault and words it best.
        read_image(path)
        raise UserError(f"{path}: cannot be decoded ({error})") from error
    return (width, height) if is_turned else (height, width)


def read_mask(path: Path, rule: str = "auto") -> Bool[np.ndarray, "h w"]:
    """Reads a mask file: True where the defect is, by the rules above.

    Raises:
        UserError: naming the file and why it cannot be used.
    """
    return decode_mask(_read_bytes(path), str(path), rule)


def decode_mask(encoded: bytes, name: str, rule: str = "auto") -> Bool[np.ndarray, "h w"]:
    """`read_mask` for the bytes of a file; errors call it `name`."""
    image = _decode(encoded, name)
    if image.mode == "F":
        level, top = np.asarray(image), 1.0
    elif image.mode == "I" or image.mode.startswith("I;16"):
        level, top = np.asarray(image), FULL_RANGE
    else:
        rgba = np.asarray(image.convert("RGBA"))
        level, top = np.where(rgba[:, :, 3] > 0, rgba[:, :, :3].max(axis=2), 0), 255
    if rule == "half" or (rule == "auto" and level.max() >= top / 2):
        return level >= top / 2
    return level > 0


def check_mask_rule(rule: str) -> None:
    """Raises UserError unless `rule` is one of `MASK_RULES`."""
    if rule not in MASK_RULES:
        raise UserError(f"data.settings.mask_rule: '{rule}' is not one of {', '.join(MASK_RULES)}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _decode(encoded: bytes, name: str) -> Image.Image:
    if not encoded:
        raise UserError(f"{name}: is empty (0 bytes)")
    try:
        with Image.open(BytesIO(encoded)) as image:
            upright = ImageOps.exif_transpose(image)
            upright.load()
            return upright
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{name}: is too large ({error}); cut it into tiles or reduce it first"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{name}: is no image of a known kind, whatever its suffix") from error
    except Exception as error:  # Damaged bytes make the decoders raise nearly anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: cannot be decoded ({reason})") from error


def _deep_grey(image: Image.Image, name: str, white_level: int) -> UInt8[np.ndarray, "h w"]:
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        lowest, highest, white_level = 0.0, 1.0, 1
    else:
        lowest, highest = 0, FULL_RANGE
    if not (values.min() >= lowest and values.max() <= highest):
        raise UserError(
            f"{name}: grey values run from {values.min():g} to {values.max():g}; "
            f"expected {lowest:g} to {highest:g}; save it as 8 or 16 bit"
        )
    return np.rint(np.minimum(values / white_level, 1) * 255).astype(np.uint8)

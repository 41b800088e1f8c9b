"""Decodes image and mask files of any kind, each by one stated rule.

Images become 8-bit RGB:
- they are turned upright by their EXIF orientation; of an animation, or of a camera's MPO, the
  first frame counts; a TIFF with several pages of one size is refused, as each may be a photograph;
- grey is repeated in the three channels; palettes are looked up;
- transparency is composited on white;
- 16-bit grey is scaled so that `white_level` becomes 255, never by the content of the image, since
  that would hide that a part is too bright or too dark; 16-bit colour keeps its upper byte;
- floating point runs from 0 (black) to 1 (white);
- CMYK and YCbCr are converted by formula, without colour profiles.

Masks become boolean. A colour counts by its brightest channel, and transparent is background. Then:
- rule "nonzero": anything but 0 is a defect;
- rule "half": half of the range and above is a defect;
- rule "auto": "nonzero" if nothing reaches half of the range, so that class numbers are read as
  meant; otherwise a sixteenth of the range and above, if that holds at most 8 values, so that grey
  levels or colours of classes all count; otherwise "half", so that smoothed or JPEG-compressed
  drawings keep their outline.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageFile, ImageOps

from ddad_jax.errors import UserError

try:
    import pillow_heif

    pillow_heif.register_heif_opener()
    READS_HEIF = True
except ImportError:
    READS_HEIF = False

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif",
    ".gif", ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".heic", ".heif",
)  # fmt: skip
# The formats that Pillow may try; it knows more, which other programs decode for it.
FORMATS = (
    "PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "GIF", "JPEG2000", "PPM",
    *(("HEIF",) if READS_HEIF else ()),
)  # fmt: skip
MASK_RULES = ("auto", "nonzero", "half")
SMALLEST_SIDE = 8
# The most pixels of an image: more than line-scan cameras give, and 1.5 GB in memory.
LARGEST = 500_000_000
FULL_RANGE = 65535
# A key in a Pillow image's `info`: whether it had more than 8 bits per colour.
DEEP_COLOUR = "ddad_jax deep colour"
# The most pages of a TIFF: enough for thumbnails, or smaller and smaller copies.
MOST_PAGES = 64
# The most values above the background of a mask that may each stand for a kind of defect.
CLASSES = 8
# Of the rules for images: raise it whenever they give another image.
VERSION = 1


def allow_large_images() -> None:
    """Lets Pillow read images of up to `LARGEST` pixels, in this whole process.

    By default, Pillow takes a file of about 180 million pixels or more for an attack.
    """
    Image.MAX_IMAGE_PIXELS = LARGEST


def read_image(path: Path, white_level: int = FULL_RANGE) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file as RGB.

    Args:
        path: a file of any kind in `IMAGE_SUFFIXES`.
        white_level: the value of a 16-bit grey image that stands for white (4095 for 12-bit
            cameras that leave the upper bits empty).

    Raises:
        UserError: the file cannot be used; names it and says why.
    """
    return decode_image(_read_bytes(path), str(path), white_level)


def decode_image(
    encoded: bytes, name: str, white_level: int = FULL_RANGE
) -> UInt8[np.ndarray, "h w 3"]:
    """Like `read_image`, for the bytes of a file; errors call it `name`."""
    return to_rgb(_decode(encoded, name), name, white_level)


def to_rgb(image: Image.Image, name: str, white_level: int) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an upright Pillow image to RGB, by the rules above; errors call it `name`."""
    if min(image.size) < SMALLEST_SIDE:
        raise UserError(
            f"{name}: is {image.width}×{image.height} pixels; "
            f"at least {SMALLEST_SIDE}×{SMALLEST_SIDE} are needed"
        )
    if image.info.get(DEEP_COLOUR) and white_level != FULL_RANGE:
        raise UserError(
            f"{name}: is 16-bit colour, of which only the upper byte is read, but white_level "
            f"{white_level} is for grey images; scale it to the full range, or save it as 8 bit"
        )
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        return np.repeat(_deep_levels(values, name, white_level)[:, :, None], 3, axis=2)
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


def array_to_rgb(values: np.ndarray, name: str, white_level: int) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an array of grey or RGB values to RGB, by the rule for a file of its type.

    Args:
        values: [h w], [h w 1] or [h w 3]: uint8, other integers in [0, 65535], or floating point
            in [0, 1].
        name: what errors call it.
        white_level: as for `read_image`.

    Raises:
        UserError: the shape or type is another, or values are out of range.
    """
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or min(values.shape[:2]) < SMALLEST_SIDE:
        raise UserError(
            f"{name}: is an array of shape {values.shape}; expected height, width and 1 or 3 "
            f"colours, at least {SMALLEST_SIDE}×{SMALLEST_SIDE} pixels"
        )
    if values.dtype == np.bool_ or not np.issubdtype(values.dtype, np.number):
        raise UserError(f"{name}: is an array of {values.dtype}; expected uint8, uint16 or float")
    if values.dtype != np.uint8:
        values = _deep_levels(values, name, white_level)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def read_mask(path: Path, rule: str = "auto") -> Bool[np.ndarray, "h w"]:
    """Reads a mask file: True where the defect is, by the rules above.

    Raises:
        UserError: the file cannot be used; names it and says why.
    """
    return decode_mask(_read_bytes(path), str(path), rule)


def decode_mask(encoded: bytes, name: str, rule: str = "auto") -> Bool[np.ndarray, "h w"]:
    """Like `read_mask`, for the bytes of a file; errors call it `name`."""
    level, top = _levels(_decode(encoded, name))
    if rule == "nonzero" or (rule == "auto" and level.max() < top / 2):
        return level > 0
    if rule == "auto" and len(np.unique(level[level >= top / 16])) <= CLASSES:
        return level >= top / 16
    return level >= top / 2


def read_values(path: Path) -> Shaped[np.ndarray, "h w"]:
    """Returns the values of a mask file as they are, for masks whose values have a meaning.

    Raises:
        UserError: the file cannot be used; names it and says why.
    """
    return _levels(_decode(_read_bytes(path), str(path)))[0]


def _levels(image: Image.Image) -> tuple[Shaped[np.ndarray, "h w"], int]:
    """Returns the values of a mask, and the largest value that its kind of file can hold."""
    if image.mode == "F":
        return np.asarray(image), 1
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.asarray(image), FULL_RANGE
    rgba = np.asarray(image.convert("RGBA"))
    return np.where(rgba[:, :, 3] > 0, rgba[:, :, :3].max(axis=2), 0), 255


def check_mask_rule(rule: str) -> None:
    """Raises UserError unless `rule` is one of `MASK_RULES`."""
    if rule not in MASK_RULES:
        raise UserError(f"data.settings.mask_rule: '{rule}' is not one of {', '.join(MASK_RULES)}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def require_pixels(encoded: bytes, name: str, most: int) -> None:
    """Checks the size that the header of an encoded image states.

    Raises:
        UserError: it has more pixels than `most`, or is no image.
    """
    with _opened(encoded, name) as image:
        if image.width * image.height > most:
            raise UserError(
                f"{name}: is {image.width}×{image.height} pixels; at most {most:,} are accepted"
            )


def _decode(encoded: bytes, name: str) -> Image.Image:
    with _opened(encoded, name) as image:
        _require_readable_size(image, name)
        _require_one_page(image, name)
        # Of 16-bit colour Pillow keeps the upper byte, which only shows before it decodes.
        is_deep = len(image.getbands()) > 1 and any("16" in str(each[3]) for each in image.tile)
        upright = ImageOps.exif_transpose(image)
        upright.load()
        upright.info[DEEP_COLOUR] = is_deep
        return upright


@contextmanager
def _opened(encoded: bytes, name: str) -> Iterator[ImageFile.ImageFile]:
    """Opens an image without decoding its pixels; turns any error into one line that says why."""
    if not encoded:
        raise UserError(f"{name}: is empty (0 bytes)")
    try:
        with Image.open(BytesIO(encoded), formats=FORMATS) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{name}: is larger than Pillow is set to read; call "
            f"ddad_jax.data.read.allow_large_images, or set PIL.Image.MAX_IMAGE_PIXELS ({error})"
        ) from error
    except Image.UnidentifiedImageError as error:
        if name.lower().endswith((".heic", ".heif")) and not READS_HEIF:
            raise UserError(
                f"{name}: is HEIC, which needs an extra; install it with pip install "
                "'ddad_jax[heic]'"
            ) from error
        raise UserError(f"{name}: is not an image of a known kind, whatever its suffix") from error
    except UserError:
        raise
    except Exception as error:  # Damaged bytes make the decoders raise nearly anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: cannot be decoded ({reason})") from error


def _require_readable_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > LARGEST:
        raise UserError(
            f"{name}: is {image.width}×{image.height} pixels; at most {LARGEST:,} are read; cut it "
            "into several photographs, or reduce it"
        )


def _require_one_page(image: Image.Image, name: str) -> None:
    if image.format != "TIFF":
        return
    sizes = [image.size]
    with suppress(EOFError):
        # Each page takes time, and a small file may hold millions.
        while len(sizes) <= MOST_PAGES:
            image.seek(len(sizes))
            sizes.append(image.size)
    image.seek(0)
    if len(sizes) > MOST_PAGES:
        raise UserError(f"{name}: has more than {MOST_PAGES} pages; save each as a file of its own")
    # Smaller pages are thumbnails.
    if sizes.count(sizes[0]) > 1:
        raise UserError(
            f"{name}: has {sizes.count(sizes[0])} pages of {image.width}×{image.height} pixels; "
            "save each as a file of its own"
        )


def _deep_levels(
    values: Shaped[np.ndarray, "h w *colours"], name: str, white_level: int
) -> UInt8[np.ndarray, "h w *colours"]:
    """Converts values of more than 8 bits, or floating point, to 8 bits."""
    is_float = np.issubdtype(values.dtype, np.floating)
    lowest, highest, white = (0.0, 1.0, 1) if is_float else (0, FULL_RANGE, white_level)
    levels = values.astype(np.float64)
    if not (levels.min() >= lowest and levels.max() <= highest):
        raise UserError(
            f"{name}: grey values run from {levels.min():g} to {levels.max():g}; "
            f"expected {lowest:g} to {highest:g}; save it as 8 or 16 bit"
        )
    return np.rint(np.minimum(levels / white, 1) * 255).astype(np.uint8)

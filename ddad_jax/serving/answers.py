"""The answers about one photograph: its row, its map, its mask, its picture."""

import base64
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image
from starlette.responses import Response

from ddad_jax.deploy.outputs import LEVEL, map_image, mask_image
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.deploy.rows import facts_of
from ddad_jax.evaluation.drawing import encoded, shrunk_map

# Longest side in pixels of the map's values.
VALUES_SIDE = 256
QUALITY = 85


def json_response(content: Any, status: int = 200, **headers: str) -> Response:
    """Returns a JSON response in which numbers that are not finite are null."""
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False)
    return Response(text, status, headers, "application/json")


def finite(content: Any) -> Any:
    """Returns the content with None for numbers that JSON does not have."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def picture_of(prediction: Prediction) -> bytes:
    """Returns photograph, reconstruction and heat map side by side, as PNG."""
    return encoded(prediction.draw(), "png")


# Files that may be the answer instead of a row: how each is made, and its media type.
FILES: dict[str, tuple[Callable[[Prediction], bytes], str]] = {
    "map": (lambda p: encoded(map_image(p, "png"), "png"), "image/png"),
    "tiff": (lambda p: encoded(map_image(p, "tiff"), "tiff"), "image/tiff"),
    "mask": (lambda p: encoded(mask_image(p), "png"), "image/png"),
    "picture": (picture_of, "image/png"),
    "photograph": (
        lambda p: encoded(Image.fromarray(p.image), "jpeg", quality=QUALITY), "image/jpeg"
    ),
}  # fmt: skip
# What may be added to a row: these files, or the map's values.
VALUES = "values"
ENCLOSED = (*FILES, VALUES)
# These need the reconstruction.
DRAWN = ("picture",)


def row_response(prediction: Prediction, detector: str, enclosed: Iterable[str]) -> Response:
    """Returns the row, with files in it as data URIs.

    Args:
      prediction: of the photograph.
      detector: the name of the one that judged it.
      enclosed: some of `ENCLOSED`.
    """
    row = {"detector": detector, **facts_of(prediction, with_outlines=False)}
    for name in enclosed:
        if name == VALUES:
            row[name] = _values(prediction)
        else:
            make, kind = FILES[name]
            row[name] = f"data:{kind};base64,{_text(make(prediction))}"
    return json_response(row)


def file_response(prediction: Prediction, name: str) -> Response:
    """Returns one of `FILES`."""
    make, kind = FILES[name]
    return Response(make(prediction), media_type=kind)


def _values(prediction: Prediction) -> dict[str, Any]:
    """Returns the map, scaled down: two bytes per pixel, row by row, the lower byte first."""
    height, width = prediction.anomaly_map.shape
    scale = min(1.0, VALUES_SIDE / max(height, width))
    height, width = (max(1, round(side * scale)) for side in (height, width))
    small = shrunk_map(prediction.anomaly_map, height, width)
    share = small / max(prediction.threshold, np.finfo(np.float32).tiny)
    levels = np.rint(share * LEVEL).clip(0, 2**16 - 1).astype("<u2")
    return {"width": width, "height": height, "level": LEVEL, "data": _text(levels.tobytes())}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")

"""The Open Inference Protocol, version 2: tensors in, tensors out, as JSON or binary.

https://github.com/kserve/open-inference-protocol, with Triton's extension for binary tensors.

A request has one input, "image": photographs of one size as numbers [n h w 3] or [n h w 1], or
files of any kind, with images of any size, as BYTES [n]. In JSON, BYTES are base64.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ddad_jax.data.preprocessing import Photograph
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.serving.answers import finite, picture_of
from ddad_jax.serving.refusal import Refusal

INPUT = "image"
NUMBERS = {"UINT8": "<u1", "UINT16": "<u2", "FP32": "<f4", "FP64": "<f8"}
# Outputs: types and shapes; a size of -1 differs between requests.
OUTPUTS = {
    "score": ("FP32", [-1]),
    "calibrated_score": ("FP32", [-1]),
    "decision": ("BOOL", [-1]),
    "threshold": ("FP32", [-1]),
    "regions": ("BYTES", [-1]),
    "anomaly_map": ("FP32", [-1, -1, -1]),
    "mask": ("BOOL", [-1, -1, -1]),
    "picture": ("BYTES", [-1]),
}
# The outputs of a request that names none.
USUAL = ("score", "calibrated_score", "decision", "threshold", "regions")
# These need the reconstruction.
DRAWN = ("picture",)
KNOWN_PARAMETERS = ("threshold", "binary_data_output")


@dataclass(frozen=True, eq=False)
class Asked:
    """A request for inference.

    Attributes:
      id: the sender's id; None if there is none.
      photographs: by the name that errors use.
      outputs: by name, whether binary values are wanted.
      threshold: of the score; None for the detector's own.
    """

    id: str | None
    photographs: dict[str, Photograph]
    outputs: dict[str, bool]
    threshold: float | None


def metadata(name: str) -> dict[str, Any]:
    """Returns a detector's inputs and outputs, as the protocol describes them."""
    return {
        "name": name,
        "platform": "ddad_jax",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [
            {"name": output, "datatype": kind, "shape": shape}
            for output, (kind, shape) in OUTPUTS.items()
        ],
    }


def threshold_of(value: Any) -> float:
    """Reads a threshold from a request.

    Raises:
      Refusal: it is not a finite number above 0.
    """
    try:
        threshold = float(value)
    except (TypeError, ValueError):
        threshold = math.nan
    if isinstance(value, bool) or not 0 < threshold < math.inf:
        raise Refusal(400, f"threshold: {_short(value)} is not a finite number above 0")
    return threshold


def parse(body: bytes, header_length: str | None) -> Asked:
    """Reads what a request asks for.

    Args:
      body: JSON, followed by binary tensors.
      header_length: the length of the JSON in bytes, as text; None if nothing follows it.

    Raises:
      Refusal: the body does not follow the protocol; says what is wrong.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > length:
            raise Refusal(400, f"Inference-Header-Content-Length: {_short(header_length)} is wrong")
        length = int(header_length)
    request = _table(_parsed(body[:length]), "the request")
    parameters = _table(request.get("parameters", {}), "parameters")
    for name in parameters:
        if name not in KNOWN_PARAMETERS:
            known = ", ".join(KNOWN_PARAMETERS)
            raise Refusal(400, f"parameters: {_short(name)} is not known; there are {known}")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise Refusal(400, f"inputs: expected a list of one, named '{INPUT}'")
    given = parameters.get("threshold")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise Refusal(400, "id: expected text")
    return Asked(
        identity,
        _photographs(_table(inputs[0], "inputs[0]"), memoryview(body)[length:]),
        _outputs(request.get("outputs"), parameters.get("binary_data_output") is True),
        None if given is None else threshold_of(given),
    )


def _parsed(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the request is not JSON ({error})") from error


def _table(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(400, f"{name}: expected a JSON object")
    return value


def _outputs(wanted: Any, all_binary: bool) -> dict[str, bool]:
    if not wanted:
        return dict.fromkeys(USUAL, all_binary)
    if not isinstance(wanted, list):
        raise Refusal(400, "outputs: expected a list")
    found = {}
    for each in wanted:
        name = _table(each, "outputs").get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise Refusal(
                400, f"outputs: there is no {_short(name)}; there are {', '.join(OUTPUTS)}"
            )
        parameters = _table(each.get("parameters", {}), f"outputs: {name}: parameters")
        for parameter in parameters:
            if parameter != "binary_data":
                raise Refusal(400, f"outputs: {name}: {_short(parameter)} is not supported")
        found[name] = parameters.get("binary_data", all_binary) is True
    return found


def _photographs(tensor: Mapping[str, Any], binary: memoryview) -> dict[str, Photograph]:
    name, kind = tensor.get("name"), tensor.get("datatype")
    if name != INPUT:
        raise Refusal(400, f"inputs: expected '{INPUT}', found {_short(name)}")
    if not isinstance(kind, str) or (kind != "BYTES" and kind not in NUMBERS):
        known = ", ".join(NUMBERS)
        raise Refusal(400, f"{INPUT}: datatype {_short(kind)} is not one of BYTES, {known}")
    shape, is_binary = _shape(tensor.get("shape"), kind), _is_binary(tensor, len(binary))
    rows: Sequence[Photograph]
    if kind == "BYTES":
        rows = _split(binary) if is_binary else _texts(tensor["data"])
        if len(rows) != shape[0]:
            raise Refusal(400, f"{INPUT}: shape says {shape[0]} files, found {len(rows)}")
    else:
        values = _raw(binary, kind) if is_binary else _listed(tensor["data"], kind)
        if values.size != math.prod(shape):
            count = math.prod(shape)
            raise Refusal(400, f"{INPUT}: shape says {count} numbers, found {values.size}")
        rows = list(values.reshape(shape))
    return {f"{INPUT}[{number}]": row for number, row in enumerate(rows)}


def _shape(shape: Any, kind: str) -> list[int]:
    is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    if not is_shape or len(shape) != (1 if kind == "BYTES" else 4):
        wanted = "[n]" if kind == "BYTES" else "[n, h, w, 3]"
        raise Refusal(400, f"{INPUT}: shape {_short(shape)} is not of the form {wanted}")
    return shape


def _is_binary(tensor: Mapping[str, Any], length: int) -> bool:
    """Whether a tensor's values are the `length` bytes after the JSON; else they are in it."""
    parameters = _table(tensor.get("parameters", {}), f"{INPUT}: parameters")
    for parameter in parameters:
        if parameter != "binary_data_size":
            raise Refusal(400, f"{INPUT}: {_short(parameter)} is not supported")
    size = parameters.get("binary_data_size")
    if (size is None) != ("data" in tensor):
        raise Refusal(400, f"{INPUT}: expected either data or binary_data_size")
    if (size or 0) != length or isinstance(size, bool):
        line = f"{INPUT}: binary_data_size is {_short(size)}, but {length} bytes follow"
        raise Refusal(400, line)
    return size is not None


def _texts(data: Any) -> list[bytes]:
    if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
        raise Refusal(400, f"{INPUT}: data of BYTES must be a list of base64 texts")
    try:
        return [base64.b64decode(each, validate=True) for each in data]
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{INPUT}: is not base64 ({error})") from error


def _split(binary: memoryview) -> list[bytes]:
    files, place = [], 0
    while place < len(binary):
        if place + 4 > len(binary):
            raise Refusal(400, f"{INPUT}: ends within the length of a file")
        (length,) = struct.unpack_from("<I", binary, place)
        place += 4
        if place + length > len(binary):
            raise Refusal(400, f"{INPUT}: says a file of {length} bytes, but fewer follow")
        files.append(bytes(binary[place : place + length]))
        place += length
    return files


def _raw(binary: memoryview, kind: str) -> np.ndarray:
    kept = np.dtype(NUMBERS[kind])
    if len(binary) % kept.itemsize:
        raise Refusal(400, f"{INPUT}: {len(binary)} bytes are not whole {kind} numbers")
    return np.frombuffer(binary, kept)


def _listed(data: Any, kind: str) -> np.ndarray:
    kept = np.dtype(NUMBERS[kind])
    try:
        values = np.asarray(data).ravel()
    except ValueError as error:
        raise Refusal(400, f"{INPUT}: its rows differ in length") from error
    if values.dtype.kind not in ("iu" if kept.kind == "u" else "iuf"):
        raise Refusal(400, f"{INPUT}: data of {kind} must be a list of such numbers")
    if kept.kind == "u" and not np.array_equal(values, values.astype(kept)):
        raise Refusal(400, f"{INPUT}: has numbers that are not {kind}")
    # A number that is too large becomes infinite, and is refused later.
    with np.errstate(over="ignore"):
        return values.astype(kept)


def respond(name: str, asked: Asked, predictions: Sequence[Prediction]) -> tuple[bytes, int | None]:
    """Returns the body of a response and, if binary tensors follow, the length of its JSON.

    Raises:
      Refusal: maps or masks of photographs of different sizes do not form a tensor.
    """
    described, binaries = [], []
    for output, is_binary in asked.outputs.items():
        kind, rank = OUTPUTS[output][0], len(OUTPUTS[output][1])
        values = [_value(output, each) for each in predictions]
        shape = [len(values)]
        if rank > 1:
            sizes = {each.shape for each in values}
            if len(sizes) > 1:
                line = f"{output}: photographs of different sizes; ask for one at a time"
                raise Refusal(400, line)
            shape += sizes.pop()
        entry: dict[str, Any] = {"name": output, "datatype": kind, "shape": shape}
        if is_binary:
            content = _binary(values, kind)
            entry["parameters"] = {"binary_data_size": len(content)}
            binaries.append(content)
        else:
            entry["data"] = _plain(values, kind)
        described.append(entry)
    head: dict[str, Any] = {"model_name": name, "outputs": described}
    if asked.id is not None:
        head["id"] = asked.id
    text = json.dumps(head, allow_nan=False).encode()
    return b"".join([text, *binaries]), len(text) if binaries else None


def _value(output: str, prediction: Prediction) -> Any:
    if output == "regions":
        return json.dumps(finite([asdict(each) for each in prediction.regions])).encode()
    if output == "picture":
        return picture_of(prediction)
    return getattr(prediction, output)


def _binary(values: Sequence[Any], kind: str) -> bytes:
    if kind == "BYTES":
        return b"".join(struct.pack("<I", len(each)) + each for each in values)
    return np.asarray(values, "<f4" if kind == "FP32" else np.bool_).tobytes()


def _plain(values: Sequence[Any], kind: str) -> list[Any]:
    if kind == "BYTES":
        # Regions are ASCII text; a picture is not.
        is_text = all(each[:1] == b"[" for each in values)
        return [(each if is_text else base64.b64encode(each)).decode() for each in values]
    return finite(np.asarray(values).ravel().tolist())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}…"

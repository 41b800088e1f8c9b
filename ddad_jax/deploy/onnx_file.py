"""Programs as ONNX files: written by jax2onnx, run by ONNX Runtime."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from ddad_jax.deploy.program import Program, Runner, open_inputs
from ddad_jax.errors import UserError
from ddad_jax.machine.platforms import for_any_platform

# The most bytes that protobuf allows in one file.
LARGEST = 2**31 - 1
IMAGES, THRESHOLD = "images", "threshold"


def encode(program: Program, threshold: float, smallest_side: int) -> bytes:
    """Returns the program as the bytes of an ONNX file.

    Its input "images" is uint8 [batch, height, width, 3]; its input "threshold" may be left out.
    The outputs have the same names as those of the program.

    Args:
      program: a function of images and a threshold.
      threshold: default of the input "threshold".
      smallest_side: of the images, in pixels.

    Raises:
      UserError: the file would be larger than an ONNX file may be.
    """
    from jax2onnx import to_onnx
    from onnx import numpy_helper

    inputs = open_inputs(smallest_side)
    # The program is traced first: the converter replaces functions of jax.numpy by its own, which
    # cannot handle open sizes.
    with for_any_platform():
        traced, shapes = jax.make_jaxpr(program, return_shape=True)(*inputs)
    with _open_sizes_by_name():
        model = to_onnx(
            jaxpr_as_fun(traced),
            list(inputs),
            return_mode="proto",
            input_names=[IMAGES, THRESHOLD],
            # JAX flattens a dictionary in the order of its sorted keys.
            output_names=sorted(shapes),
        )
    default = numpy_helper.from_array(np.array(threshold, np.float32), THRESHOLD)
    model.graph.initializer.append(default)
    _drop_unused_constants(model.graph)
    model.producer_name = "ddad_jax"
    if model.ByteSize() > LARGEST:
        raise UserError(
            f"--output: the detector takes {model.ByteSize() / 1e9:.1f} GB, more than an ONNX file "
            "may hold; export it as .stablehlo"
        )
    return model.SerializeToString()


def with_metadata(content: bytes, metadata: Mapping[str, Any]) -> bytes:
    """Returns the file with metadata by name: text as it is, everything else as JSON."""
    import onnx

    model = onnx.load_from_string(content)
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in metadata.items()
    }
    onnx.helper.set_model_props(model, texts)
    return model.SerializeToString()


def runner(content: bytes) -> Runner:
    """Returns a function that runs such a file, with its default threshold."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # No warnings of shapes that the converter left open.
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {IMAGES: images}), strict=True))


def _drop_unused_constants(graph: Any) -> None:
    """Removes constants that the converter left unused in a graph; readers warn of them."""
    used = _names_used(graph)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]
    for inner in _graphs_in(graph):
        _drop_unused_constants(inner)


def _names_used(graph: Any) -> set[str]:
    """Returns the names of all values that a graph and its subgraphs take, read or return."""
    used = {each.name for each in (*graph.input, *graph.output)}
    used.update(name for node in graph.node for name in node.input)
    return used.union(*map(_names_used, _graphs_in(graph)))


def _graphs_in(graph: Any) -> list[Any]:
    return [value.g for node in graph.node for value in node.attribute if value.HasField("g")]


@contextmanager
def _open_sizes_by_name() -> Iterator[None]:
    """Has the converter treat JAX's open sizes as their names."""
    from onnx_ir import _core

    known = _core._maybe_convert_to_symbolic_dim

    def convert(size: Any) -> Any:
        return known(str(size) if jax.export.is_symbolic_dim(size) else size)

    log = logging.getLogger("onnx_ir.serde")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with mock.patch.object(_core, "_maybe_convert_to_symbolic_dim", convert):
            yield
    finally:
        log.setLevel(before)

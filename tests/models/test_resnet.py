import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax import models

PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet34", "resnet50", pytest.param("wide_resnet101_2", marks=pytest.mark.slow)],
)
def test_stages_agree_with_torchvision(name, golden, golden_variables, nhwc, apply, relative_error):
    network = models.build_extractor(name)
    tensors = np.load(golden / f"{name}.npz")
    stages = apply(network, golden_variables(network, name), nhwc(tensors["x"]))
    assert len(stages) == 3
    for index, stage in enumerate(stages):
        assert relative_error(stage, nhwc(tensors[f"feature{index}"])) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_published_number_of_parameters(name):
    assert models.parameter_count(models.build_extractor(name)) == PUBLISHED[name]


def test_normalisation_is_imagenets():
    network = models.build_extractor("resnet18")
    white = network.normalise(jnp.ones((1, 1, 1, 3)))
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(white[0, 0, 0], expected, rtol=1e-6)


def test_features_are_of_the_type_of_computation():
    network = models.build_extractor("resnet18", dtype="bfloat16")
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    stages = jax.eval_shape(network.apply, models.abstract_variables(network), images)
    assert [stage.shape for stage in stages] == [(1, 16, 16, 64), (1, 8, 8, 128), (1, 4, 4, 256)]
    assert {str(stage.dtype) for stage in stages} == {"bfloat16"}


def test_statistics_never_change(random_variables):
    network = models.build_extractor("resnet18")
    variables = random_variables(network)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    @jax.jit
    def statistics(variables, images):
        return network.apply(variables, images, mutable=["batch_stats"])[1]["batch_stats"]

    after = statistics(variables, images)
    jax.tree.map(np.testing.assert_array_equal, after, variables["batch_stats"])

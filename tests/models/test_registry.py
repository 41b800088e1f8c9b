import pytest

from ddad_jax import models
from ddad_jax.errors import UserError


@pytest.mark.parametrize(
    ("build", "kind", "name"),
    [
        (models.build_autoencoder, "autoencoder", "kl"),
        (models.build_extractor, "extractor", "resnet34"),
    ],
)
def test_unknown_names_and_settings_are_refused(build, kind, name):
    with pytest.raises(UserError, match=f"{kind}.name: 'nothing'.*{name}"):
        build("nothing")
    with pytest.raises(UserError, match=f"{kind}.network.colour: '{name}' has no such setting"):
        build(name, colour=3)


def test_what_makes_a_registered_network_cannot_be_set():
    with pytest.raises(UserError, match="extractor.network.bottleneck"):
        models.build_extractor("resnet50", bottleneck=False)


@pytest.mark.parametrize("name", models.AUTOENCODERS)
def test_autoencoders_are_hashable_and_say_their_latent(name):
    network = models.build_autoencoder(name)
    assert hash(network) == hash(models.build_autoencoder(name))
    assert network.latent_channels >= 3
    assert network.downsampling >= 1


@pytest.mark.parametrize("name", models.EXTRACTORS)
def test_extractors_are_hashable(name):
    assert hash(models.build_extractor(name)) == hash(models.build_extractor(name))


def test_the_denoiser_takes_settings():
    assert models.build_denoiser(base_channels=32).base_channels == 32
    with pytest.raises(UserError, match="denoiser.network.depth"):
        models.build_denoiser(depth=3)

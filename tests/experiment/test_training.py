from unittest.mock import Mock

import numpy as np
import pytest

from ddad_jax.experiment.category import Category
from ddad_jax.experiment.trained import Trained
from ddad_jax.experiment.training import train_networks
from ddad_jax.settings import SettingError
from ddad_jax.training.state import TrainSettings


def with_autoencoder(variables):
    """Four images, of which its training would be all warm-up."""
    training = TrainSettings(epochs=1, batch_size=2, warmup_steps=5)
    config = Mock(autoencoder=Mock(training=training))
    images = Mock(squares=np.zeros((4, 8, 8, 3), np.uint8))
    category = Mock(spec=Category, config=config, division=(images,))
    return Mock(spec=Trained, subject=category, autoencoder=variables)


def test_what_cannot_be_trained_is_refused_before_anything_is():
    with pytest.raises(
        SettingError, match=r"autoencoder\.training\.warmup_steps: 5 leaves none of the 2"
    ):
        train_networks([with_autoencoder(None)], ["autoencoder"])


def test_settings_of_a_network_that_is_there_already_are_not_asked():
    made = with_autoencoder({"params": {}})
    assert train_networks([made], ["autoencoder"]) == [made]

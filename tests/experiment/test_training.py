import re
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from ddad_jax.errors import UserError
from ddad_jax.experiment.category import Category
from ddad_jax.experiment.identity import Record, settings_of, write_record
from ddad_jax.experiment.trained import Trained
from ddad_jax.experiment.training import train_networks
from ddad_jax.settings import SettingError
from ddad_jax.training.state import TrainSettings

# Of four images.
ALL_WARM_UP = TrainSettings(epochs=1, batch_size=2, warmup_steps=5)


def with_autoencoder(variables, training=ALL_WARM_UP):
    """Of four images."""
    config = Mock(autoencoder=Mock(training=training))
    images = Mock(squares=np.zeros((4, 8, 8, 3), np.uint8))
    category = Mock(spec=Category, config=config, division=(images,))
    return Mock(spec=Trained, subject=category, autoencoder=variables)


def test_what_cannot_be_trained_is_refused_before_anything_is():
    with pytest.raises(
        SettingError, match=r"autoencoder\.training\.warmup_steps: 5 leaves none of the 2"
    ):
        train_networks([with_autoencoder(None)], ["autoencoder"])


def test_a_network_with_neither_weights_nor_training_is_refused():
    with pytest.raises(SettingError, match=r"autoencoder\.training\.steps: is 0, and so is"):
        train_networks([with_autoencoder(None, TrainSettings())], ["autoencoder"])


def test_settings_of_a_network_that_is_there_already_are_not_asked():
    made = with_autoencoder({"params": {}})
    assert train_networks([made], ["autoencoder"]) == [made]


def test_a_finished_training_without_its_checkpoints_is_refused(made):
    subject = made.subject
    folder = subject.workdir / "denoiser"
    record = Record(
        settings=settings_of(subject.config, "denoiser"),
        weights={"autoencoder": made.digests["autoencoder"]},
        images=subject.division[0].contents,
        done=True,
    )
    write_record(folder, record)
    unread = replace(made, denoiser=None)
    with pytest.raises(UserError, match=re.escape(f"{folder / 'checkpoints'}: no checkpoint is")):
        train_networks([unread], ["denoiser"])

import pytest

from configs import default
from ddad_jax.data.augment import Flip, Motion
from ddad_jax.errors import UserError
from ddad_jax.experiment.config import augmentations, benchmark_settings, mesh, train_settings


def test_a_category_may_be_augmented_in_its_own_way():
    config = default.get_config()
    assert augmentations(config, "screw") == ()
    config.data.augmentation.horizontal_flip = True
    with config.unlocked():
        config.data.category_augmentation.screw = {"horizontal_flip": False, "max_rotation": 45.0}
    assert augmentations(config, "bottle") == (Flip(axis=1),)
    assert augmentations(config, "screw") == (Motion(45.0, 0.0),)


def test_an_unknown_augmentation_is_named():
    config = default.get_config()
    with config.unlocked():
        config.data.category_augmentation.screw = {"rotation": 45.0}
    with pytest.raises(UserError, match=r"category_augmentation\.screw.*'rotation'.*max_rotation"):
        augmentations(config, "screw")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dtypes", ("float16",), "'float16' is not one of"),
        ("batch_sizes", (), "is empty"),
        ("devices", (1, 4096), "4096 must be at least 1 and at most"),
        ("model", (0,), "0 must be at least 1"),
        ("model", (2,), "2 must be at least 1 and at most 1"),
        ("repeats", 0, "0 must be at least 1"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused(name, value, message):
    config = default.get_config()
    config.benchmark[name] = value
    with pytest.raises(UserError, match=rf"benchmark\.{name}.*{message}"):
        benchmark_settings(config)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"accumulate": 0}, r"denoiser\.training\.accumulate: 0"),
        ({"accumulate": 4}, r"batch_size: 30 is no multiple of 4, .*training\.accumulate"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(changes, part):
    config = default.get_config()
    config.denoiser.training.update(changes)
    with pytest.raises(UserError, match=part):
        train_settings(config, "denoiser")
        mesh(config)

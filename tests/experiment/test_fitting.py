import pytest

from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.errors import UserError
from ddad_jax.experiment.category import Category, preprocessing_of
from ddad_jax.experiment.config import load_config, read_config
from ddad_jax.experiment.fitting import plant_defects


def test_defects_are_planted_in_held_out_images_alone(tmp_path):
    config = read_config(load_config("demo"))
    category = Category(config, "part", tmp_path, synthetic_source(), preprocessing_of(config))
    vars(category)["division"] = ((), ())
    with pytest.raises(UserError, match="data.heldout_fraction: 0.2 holds no good image out"):
        plant_defects(category)

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ddad_jax import models
from ddad_jax.data.augment import AugmentationSettings, Flip, Motion, build_augmentations
from ddad_jax.errors import UserError
from ddad_jax.experiment.config import (
    default_config,
    load_config,
    override,
    read_config,
    shipped_configs,
)
from ddad_jax.experiment.opening import check_batches
from ddad_jax.experiment.reference import entries, settings_page
from ddad_jax.experiment.schema import PRESETS, Config

ROOT = Path(__file__).parents[2]


def changed(*assignments):
    """The default settings with some changed as on the command line."""
    config = default_config()
    override(config, [tuple(each.split("=", 1)) for each in assignments])
    return read_config(config)


def test_the_default_config_holds_the_defaults():
    assert changed() == Config()


def test_a_preset_decides_what_is_not_given():
    for name, decided in PRESETS.items():
        found = changed(f"preset={name}")
        assert asdict(found.detection).items() >= decided.items()
        assert replace(found, preset="full", detection=Config().detection) == Config()
    paper = PRESETS["paper"]
    assert (paper["scoring"], paper["num_steps"], paper["latent_weight"]) == ("paper", 10, 0.85)


@pytest.mark.parametrize(
    "assignments",
    [
        ("preset=paper", "detection.num_steps=2", "detection.latent_weight=1"),
        ("detection.latent_weight=1.0", "detection.num_steps=2", "preset=paper"),
    ],
)
def test_what_is_given_counts_more_than_the_preset(assignments):
    # Both values are those of another preset.
    found = changed(*assignments).detection
    assert (found.scoring, found.num_steps, found.latent_weight) == ("paper", 2, 1.0)


def test_a_config_file_takes_a_preset_and_changes_it(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from ddad_jax.experiment.config import load_config\n"
        "def get_config():\n    config = load_config('demo')\n    config.preset = 'paper'\n"
        "    config.detection.latent_weight = 1\n    return config\n"
    )
    found = read_config(load_config(str(own)))
    assert (found.detection.num_steps, found.detection.latent_weight) == (10, 1.0)


def test_a_table_that_says_little_has_the_preset_too():
    assert read_config({}) == Config()
    found = read_config({"preset": "paper", "detection": {"latent_weight": 0.5}}).detection
    assert (found.scoring, found.num_steps, found.latent_weight) == ("paper", 10, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_config_can_be_read(name):
    config = read_config(load_config(name))
    config.networks()
    assert config.plain()["data"]["size"] == config.data.size


# arXiv 2401.04463, its code, and arXiv 2305.15956, its predecessor's, written down a second time.
PUBLISHED = {
    "mvtec": {
        "data.size": 256, "diffusion.beta_start": 0.0015, "diffusion.beta_end": 0.0195,
        "diffusion.num_timesteps": 1000, "autoencoder.name": "kl",
        "autoencoder.weights": "sd_vae_ft_mse", "autoencoder.latent_scale": 0.18215,
        "denoiser.network.base_channels": 192,
        "denoiser.network.channel_multipliers": (1, 2, 2, 4, 4),
        "denoiser.network.num_res_blocks": 2,
        "denoiser.network.attention_resolutions": (32, 16, 8, 4),
        "denoiser.network.num_heads": 8, "denoiser.prediction": "noise",
        "denoiser.weighting": "plain", "denoiser.max_timestep": 0,
        "denoiser.training.learning_rate": 1e-4, "denoiser.training.weight_decay": 0.01,
        "denoiser.training.batch_size": 30, "denoiser.training.epochs": 300,
        "extractor.name": "resnet34", "extractor.weights": "resnet34",
        "extractor.distillation_weight": 0.0, "extractor.training.learning_rate": 1e-4,
        "detection.noise_level": "dynamic", "detection.max_noise_level": 80,
        "detection.num_bins": 10, "detection.min_bin": 2, "detection.bin_spacing": "equidistant",
        "detection.num_neighbours": 20, "detection.metric": "l1", "detection.knn_stage": 2,
        "detection.start": "scaled", "detection.num_steps": 10,
        "detection.conditioning_weight": 4.0, "detection.stochasticity": 0.0,
        "detection.feature_stages": (2, 3), "detection.feature_pooling": 1,
        "detection.latent_weight": 0.85, "detection.blur": 4.0, "detection.scoring": "paper",
        "detection.reconstruction": "denoised",
    },
    "ddad": {
        "data.size": 256, "diffusion.beta_start": 1e-4, "diffusion.beta_end": 0.02,
        "diffusion.num_timesteps": 1000, "autoencoder.name": "pixels",
        "denoiser.network.base_channels": 64,
        "denoiser.network.channel_multipliers": (1, 1, 2, 2, 4, 4),
        "denoiser.network.attention_resolutions": (32, 16, 8), "denoiser.network.num_heads": 4,
        "extractor.name": "wide_resnet101_2", "extractor.weights": "wide_resnet101_2",
        "detection.noise_level": "static", "detection.max_noise_level": 250,
        "detection.start": "noised", "detection.num_steps": 10, "detection.stochasticity": 1.0,
        "detection.feature_stages": (2, 3), "detection.feature_pooling": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ["mvtec", "visa", "btad", "ddad"])
def test_the_published_method_has_the_published_settings(name):
    config = load_config(name)
    override(config, [("preset", "paper")])
    read = read_config(config)
    flat = dict(flatten(read.plain()))
    for setting, value in PUBLISHED.get(name, PUBLISHED["mvtec"]).items():
        found = flat[setting]
        assert (tuple(found) if isinstance(found, list) else found) == value, setting
    # And so has what is made of them.
    assert read.detector.conditioning_weight == read.detection.conditioning_weight
    count = models.parameter_count(read.networks().denoiser)
    assert count == (32_952_707 if name == "ddad" else 281_088_004)


def flatten(table, before=""):
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def test_a_config_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    expected = load_config(str(ROOT / "configs" / "demo.py"))
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.py", "configs/demo.py"):
        assert load_config(name) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "own.py"
    own.write_text(
        "from ddad_jax.experiment.config import load_config\n"
        "def get_config():\n    config = load_config('demo')\n    config.seed = 5\n"
        "    return config\n"
    )
    assert load_config("~/own.py").seed == load_config("own.py").seed == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "line 1: SyntaxError"),
        ("import nowhere_to_be_found", "line 1: ModuleNotFoundError"),
        ("from configs import default", "line 1: 'configs' can only be imported"),
        ("x = 1", "has no attribute 'get_config"),
        ("def get_config():\n    return 3", "gives 3"),
        (
            "from ddad_jax.experiment.config import load_config\ndef get_config():\n"
            "    config = load_config('demo')\n    config.detection.blurr = 3\n",
            "line 4: .*blurr",
        ),
    ],
)
def test_a_config_file_that_cannot_be_used_is_refused(tmp_path, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(ROOT))])
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=f"own.py: .*{message}"):
        load_config("own.py")


def test_an_unknown_config_lists_those_there_are():
    with pytest.raises(UserError, match=r"--config=demos: there is no such file.*demo.*mvtec"):
        load_config("demos")


@pytest.mark.parametrize("text", ["(2,3)", "[2, 3]", "2,3", "(2, 3,)"])
def test_lists_as_people_write_them(text):
    assert changed(f"detection.feature_stages={text}").detection.feature_stages == (2, 3)


def test_values_of_every_type():
    found = changed(
        "detection.blur=2", "detection.leave_one_out=no", "detection.scoring=paper",
        "build.patch_bank_size=5", "data.settings.recursive=True", "data.settings.test=photos",
        "data.category_augmentation.screw.max_rotation=10", "detection.feature_stages=3",
        "benchmark.dtypes=('bfloat16',)", "denoiser.network.attention_resolutions=()",
    )  # fmt: skip
    assert found.detection.blur == 2.0 and found.detection.leave_one_out is False
    assert found.build.patch_bank_size == 5 and found.detection.feature_stages == (3,)
    assert found.data.settings == {"recursive": True, "test": "photos"}
    assert found.data.category_augmentation == {"screw": {"max_rotation": 10}}
    assert found.benchmark.dtypes == ("bfloat16",)
    assert found.denoiser.network["attention_resolutions"] == ()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=-1", "seed: -1 must be at least 0"),
        ("detection.blur=none", "detection.blur: 'none' is not a number"),
        ("preset=best", "preset: 'best' is not one of paper, full, fast"),
        ("preset=", "preset: '' is not one of"),
        ("seed=1e3", "seed: '1e3' is not a whole number"),
        ("dtype=int8", "dtype: 'int8' is not one of float32, bfloat16"),
        ("data.size=256.0", "data.size: '256.0' is not a whole number"),
        ("data.heldout_fraction=0", "data.heldout_fraction: 0.0 must be above 0"),
        ("data.tiling.overlap=8", "data.tiling.overlap: 8 must be at least 0 and at most 0"),
        ("data.augmentation.max_shift=3.0", "data.augmentation.max_shift: 3.0"),
        ("data.augmentation.max_rotation=-30", "data.augmentation.max_rotation: -30.0"),
        ("data=3", "data: is a section; its settings are .*data.root"),
        ("data.settings=3", "data.settings: '3' is not a table"),
        ("seed.x=1", "seed.x: there is no setting 'x'"),
        ("detectoin.blur=3", "detectoin.blur: .*did you mean 'detection'"),
        ("detection.num_stepz=3", "num_stepz: .*did you mean 'num_steps'"),
        ("detection.image_size=64", "there is no setting 'image_size'"),
        ("detection.num_steps=0", "detection.num_steps: 0 must be at least 1"),
        (
            "detection.num_steps=7",
            "detection.max_noise_level: 80 is not a multiple of num_steps, 7",
        ),
        ("detection.num_neighbours=0", "detection.num_neighbours: 0 must be"),
        ("detection.num_bins=0", "detection.num_bins: 0 must be"),
        ("detection.min_bin=11", "detection.min_bin: 11 is above num_bins, 10"),
        ("detection.blur=-1", "detection.blur: -1.0 must be at least 0"),
        ("detection.conditioning_weight=nan", "conditioning_weight: nan is not a finite"),
        ("detection.feature_stages=", "detection.feature_stages: is empty"),
        ("detection.feature_stages=4", "detection.feature_stages: '4' is not one of 1, 2, 3"),
        ("detection.max_noise_level=1000", "detection.max_noise_level: 1000 must be at most 999"),
        ("diffusion.num_timesteps=0", "diffusion.num_timesteps: 0 must be"),
        ("diffusion.beta_end=0.001", "diffusion.beta_end: 0.001 is below beta_start"),
        ("denoiser.max_timestep=5000", "denoiser.max_timestep: 5000 must be at most 1000"),
        ("denoiser.training.learning_rate=-1", "denoiser.training.learning_rate: -1.0 must be"),
        ("denoiser.training.steps=10.5", "denoiser.training.steps: '10.5' is not a whole number"),
        ("denoiser.training.trace_steps=x", "denoiser.training.trace_steps: 'x' is not a range"),
        ("denoiser.training.accumulate=0", "denoiser.training.accumulate: 0 must be"),
        ("denoiser.network.dtype=float64", "denoiser.network.dtype: follows from other"),
        ("autoencoder.crop_size=300", "autoencoder.crop_size: 300 must be at most 256"),
        ("build.false_alarm_rate=1", "build.false_alarm_rate: 1.0 must be above 0 and below 1"),
        ("benchmark.dtypes=()", "benchmark.dtypes: is empty"),
        ("benchmark.dtypes=float16", "benchmark.dtypes: 'float16' is not one of"),
        ("benchmark.repeats=0", "benchmark.repeats: 0 must be at least 1"),
        ("benchmark.model=2", "benchmark.model: 2 divides none of the counts in benchmark.devices"),
        ("data.root=https://host/data", "data.root: 'https://host/data' is a URL"),
        ("data.cache=gs://bucket", "data.cache: 'gs://bucket' is a URL"),
    ],
)
def test_what_cannot_be_is_refused_by_name(assignment, message):
    with pytest.raises(UserError, match=message):
        changed(assignment)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("num_heads=5", "denoiser.network.* 5 heads do not divide"),
        ("num_heads=0", "denoiser.network.num_heads: 0 is not a whole number above 0"),
        ("base_channels=0", "denoiser.network.base_channels: 0 is not a whole number"),
        ("base_channels=48", "denoiser.network: .*48 channels do not divide into 32 groups"),
        ("channel_multipliers=(1,1.5)", r"channel_multipliers: \(1, 1.5\) is not a list of whole"),
        ("depth=3", "denoiser.network.depth: 'unet' has no such setting"),
        ("remat=3", "denoiser.network.remat: 3 must be bool"),
    ],
)
def test_networks_that_cannot_be_are_refused_before_any_work(assignment, message):
    with pytest.raises(UserError, match=message):
        changed(f"denoiser.network.{assignment}").networks()


def test_stages_that_cannot_be_averaged_are_refused_before_any_work():
    averaged = "detection.patch_layers=averaged"
    with pytest.raises(UserError, match=r"detection.patch_stages: .* \[128, 256\] channels"):
        changed(averaged).networks()
    changed(averaged, "detection.patch_stages=(3,)").check_stages()
    changed(averaged, "detection.scoring=paper").check_stages()
    changed(averaged, "extractor.name=dinov2_small").check_stages()


def test_a_tilde_in_any_path_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    found = changed("data.root=~/photos", "data.cache=~/cache", "denoiser.weights=~/w.pth")
    assert found.data.root == "/home/somebody/photos"
    assert found.data.cache == "/home/somebody/cache"
    assert found.denoiser.weights == "/home/somebody/w.pth"
    assert changed("data.root=photos/~").data.root == "photos/~"


def test_buckets_stay_as_they_were_given():
    assert changed("data.root=gs://b/data").data.root == "gs://b/data"
    assert changed("denoiser.weights=s3://b/w.pth").denoiser.weights == "s3://b/w.pth"


def test_a_category_may_be_augmented_in_its_own_way():
    data = changed("data.augmentation.horizontal_flip=True").data
    own = {"screw": {"horizontal_flip": False, "max_rotation": 45}}
    data = replace(data, category_augmentation=own)
    assert build_augmentations(data.augmentation_of("bottle")) == (Flip(axis=1),)
    assert build_augmentations(data.augmentation_of("screw")) == (Motion(45.0, 0.0),)
    assert build_augmentations(AugmentationSettings()) == ()


def test_an_unknown_augmentation_is_named():
    data = changed("data.category_augmentation.screw.rotation=45").data
    with pytest.raises(UserError, match=r"category_augmentation\.screw\.rotation.*max_rotation"):
        data.augmentation_of("screw")


def test_a_batch_that_cannot_be_divided_is_refused():
    config = changed("denoiser.training.accumulate=4")
    with pytest.raises(UserError, match=r"batch_size: 30 is not a multiple of 4, .*accumulate"):
        check_batches(config)


def test_every_setting_is_explained_and_the_page_is_that_of_today():
    assert all(entry.text for entry in entries(Config()))
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), (
        "write it again: python -m ddad_jax.experiment.reference > docs/settings.md"
    )


@pytest.mark.slow
def test_a_config_is_read_without_jax_being_started():
    program = (
        "from ddad_jax.experiment.config import load_config, read_config\n"
        "read_config(load_config('mvtec'))\n"
        "import jax._src.xla_bridge as bridge\n"
        "print(bool(bridge._backends))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr

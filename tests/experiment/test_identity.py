"""What a run is, over a hundred random edits of it."""

import json
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.prepare import prepare
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.errors import UserError
from ddad_jax.experiment import fitting, training
from ddad_jax.experiment.category import preprocessing_of
from ddad_jax.experiment.config import default_config, override, read_config
from ddad_jax.experiment.fitting import contents_of, fitted_detector, made_of
from ddad_jax.experiment.identity import (
    Record,
    can_train_on,
    first_difference,
    read_record,
    settings_of,
)
from ddad_jax.experiment.opening import open_categories
from ddad_jax.experiment.trained import load_networks
from ddad_jax.experiment.training import train_networks
from ddad_jax.settings import PRODUCTS, walk

BASE = (
    "data.source=folder", "data.size=16", "data.heldout_fraction=0.25",
    "autoencoder.name=pixels", "autoencoder.latent_scale=1.0",
    "denoiser.network={'base_channels': 32, 'channel_multipliers': (1,), 'num_res_blocks': 1,"
    " 'attention_resolutions': (), 'num_heads': 1}",
    "denoiser.training.steps=2", "denoiser.training.batch_size=2",
    "extractor.name=efficientnet_lite0", "extractor.weights=efficientnet_lite0",
)  # fmt: skip


def config_of(*assignments):
    config = default_config()
    override(config, [tuple(each.split("=", 1)) for each in (*BASE, *assignments)])
    return read_config(config)


def test_a_product_depends_on_its_settings_and_those_before_it():
    config = config_of()
    found = {product: set(settings_of(config, product)) for product in PRODUCTS}
    for before, after in zip(PRODUCTS[1:], PRODUCTS[2:], strict=False):
        assert found[before] < found[after]
    assert "extractor.name" in found["autoencoder"] and "extractor.name" not in found["denoiser"]
    assert "denoiser.training.steps" in found["denoiser"] - found["autoencoder"]
    assert "detection.conditioning_weight" in found["extractor"] - found["denoiser"]
    assert "build.false_alarm_rate" in found["detector"] - found["extractor"]
    assert "evaluation.protocol" in found["metrics"] - found["detector"]
    nothing = {name for name, _, _, changes in walk(config) if changes == "nothing"}
    assert not nothing & found["metrics"]
    for name in ("mesh.data", "data.root", "data.cache", "build.batch_size", "benchmark.rounds",
                 "denoiser.training.log_every", "denoiser.training.checkpoint_every"):  # fmt: skip
        assert name in nothing


def test_settings_that_older_records_lack_are_named_where_they_say_something():
    new = {"detection.patch_metric": "cosine", "detection.patch_layers": "averaged",
           "detection.foreground": True, "detection.score_share": 0.01,
           "detection.score_metric": "cosine"}  # fmt: skip
    plain = settings_of(config_of("detection.patch_metric=l2"), "detector")
    found = settings_of(config_of(*(f"{name}={value}" for name, value in new.items())), "detector")
    assert not plain.keys() & new.keys()
    assert found == plain | new


def test_what_saves_memory_is_no_other_setting():
    plain, saving = config_of(), config_of("denoiser.network.remat=True")
    assert settings_of(plain, "metrics") == settings_of(saving, "metrics")


def test_only_what_keeps_the_network_can_be_trained_on():
    assert can_train_on("denoiser", ["denoiser.training.steps", "seed"])
    for setting in ("denoiser.network.base_channels", "data.size", "autoencoder.name",
                    "denoiser.prediction", "data.settings.white_level"):  # fmt: skip
        assert not can_train_on("denoiser", [setting])


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b was 1, now 2"),
        ({"a": ["p", "q"]}, {"a": ["q", "r", "s"]}, "a differ: 2 added and 1 gone"),
        ({"a": ["p", "q"]}, {"a": ["q", "p"]}, "a differ: in order"),
        ({"a": 1}, {"a": 1}, ""),
        ({}, {"a": 1}, "a was None, now 1"),
    ],
)
def test_a_difference_is_said_in_words(before, now, said):
    assert first_difference(before, now) == said


def test_records_tell_settings_weights_and_images():
    record = Record({"a": 1}, {"x": "1"}, ["p", "q"])
    assert record.is_of(Record({"a": 1}, {"x": "1"}, ["p", "q"], before=["z"], done=True))
    assert not record.is_of(replace(record, images=["q", "p"]))
    assert not record.is_of(replace(record, weights={"x": "2"}))
    assert record.settings_that_differ(replace(record, settings={"b": 2})) == {
        "a": (1, None), "b": (None, 2)
    }  # fmt: skip
    assert replace(record, before=["z"]).ever == {"p", "q", "z"}


class World:
    """A run whose networks and detectors are not computed, but remember what they were given."""

    def __init__(self, home, monkeypatch, rng):
        self.home, self.rng, self.drawn = home, rng, 0
        self.root, self.workdir = home / "photos", home / "run"
        self.settings = {}
        self.trained_on, self.built_of = set(), {}
        self.root.mkdir(parents=True)
        for _ in range(12):
            self.add()
        monkeypatch.setattr(training, "_train_group", self.train)
        monkeypatch.setattr(training, "read_parameters", lambda *_: {"weight": np.zeros(1)})
        monkeypatch.setattr(fitting, "build", self.build)
        monkeypatch.setattr("ddad_jax.experiment.category.load_detector", self.load)
        monkeypatch.setattr(
            FittedDetector, "save", lambda fitted, path, shared: self.save(fitted, path)
        )

    def train(self, group, network):
        for made, task in group:
            (squares,) = task.arrays.values()
            assert len(squares) == len(made.subject.division[0])
            self.trained_on |= set(made.subject.division[0].contents)
        return [{"weight": np.zeros(1)} for _ in group]

    def build(self, made, settings, build):
        train, heldout = made.subject.division
        self.built_of = {"train": list(train.contents), "heldout": list(heldout.contents)}
        return self.fitted(json.loads(json.dumps(fitting.made_of(made))))

    def save(self, fitted, path):
        path.write_text(json.dumps(fitted.made_of))

    def load(self, path):
        return self.fitted(json.loads(path.read_text()))

    def fitted(self, made_of):
        """A detector that holds no scores, as those of older formats."""
        settings = SimpleNamespace(reconstruct=True)
        without = SimpleNamespace(calibration=SimpleNamespace(scores=()), settings=settings)
        fitted = object.__new__(FittedDetector)
        for name, value in (("detector", without), ("made_of", made_of), ("wish", {})):
            object.__setattr__(fitted, name, value)
        return fitted

    def add(self):
        self.drawn += 1
        pixels = np.random.default_rng(self.drawn).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(self.root / f"{self.rng.integers(1 << 40):x}.png")

    def pick(self):
        paths = sorted(self.root.iterdir())
        return paths[self.rng.integers(len(paths))]

    def edit(self):
        """One random change, of which the run must know by itself."""
        kind = self.rng.choice(
            ["add", "remove", "replace", "rename", "move", "workdir", "copy", "return", "rate",
             "steps", "seed", "log", "batch", "fraction"]
        )  # fmt: skip
        if kind == "add":
            self.add()
        elif kind == "remove":
            if len(list(self.root.iterdir())) > 6:
                self.pick().rename(self.home / "away.png")
        elif kind == "return":
            if (self.home / "away.png").exists():
                (self.home / "away.png").rename(self.root / f"{self.rng.integers(1 << 40):x}.png")
        elif kind == "replace":
            path = self.pick()
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        elif kind == "rename":
            self.pick().rename(self.root / f"{self.rng.integers(1 << 40):x}.png")
        elif kind == "copy":
            shutil.copy(self.pick(), self.root / f"{self.rng.integers(1 << 40):x}.png")
        elif kind in ("move", "workdir"):
            name = "root" if kind == "move" else "workdir"
            target = self.home / f"{name}{self.rng.integers(1 << 40):x}"
            if getattr(self, name).exists():
                setattr(self, name, getattr(self, name).rename(target))
        else:
            name, values = {
                "rate": ("build.false_alarm_rate", (0.01, 0.05)),
                "steps": ("denoiser.training.steps", (2, 3)),
                "seed": ("seed", (0, 1)),
                "log": ("denoiser.training.log_every", (1, 20)),
                "batch": ("build.batch_size", (2, 16)),
                "fraction": ("data.heldout_fraction", (0.25, 0.4)),
            }[kind]
            self.settings[name] = values[self.rng.integers(2)]
        return kind

    def fit(self, train_on):
        assignments = [f"{name}={value}" for name, value in self.settings.items()]
        config = config_of(f"data.root={self.root}", *assignments)
        self.workdir.mkdir(exist_ok=True)
        (category,) = open_categories(config, self.workdir)
        category.check_trained(train_on)
        (made,) = train_networks([load_networks(category)], ["denoiser"], train_on)
        return category, made, fitted_detector(made)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_edit_of_a_run_lets_a_trained_image_be_held_out(tmp_path, monkeypatch, seed):
    world = World(tmp_path, monkeypatch, np.random.default_rng(seed))
    outcomes = []
    for _ in range(25):
        world.edit()
        train_on = bool(world.rng.random() < 0.3)
        ever = set(world.trained_on)
        try:
            category, made, fitted = world.fit(train_on)
        except UserError as error:
            # What is refused has trained nothing, and says how to go on.
            assert world.trained_on == ever
            assert "--workdir" in str(error)
            outcomes.append("refused")
            world.settings |= {"seed": 0, "denoiser.training.steps": 2}
            world.settings["data.heldout_fraction"] = 0.25
            continue
        outcomes.append("made")
        train, heldout = category.division
        assert not set(heldout.contents) & world.trained_on
        assert not set(heldout.contents) & set(train.contents)
        assert len(train) and len(heldout)
        # What is used says truly what it was made of, and of what is there now.
        present = prepare(category.source, preprocessing_of(category.config), tmp_path / "other")
        assert {*train.contents, *heldout.contents} == set(present["train"].contents)
        assert fitted.made_of == json.loads(json.dumps(made_of(made)))
        assert fitted.made_of["images"] == world.built_of
        assert world.trained_on <= contents_of(fitted)
        record = read_record(category.workdir / "denoiser")
        assert record.ever == world.trained_on and record.done
        assert asdict(record)["settings"] == settings_of(category.config, "denoiser")
    assert outcomes.count("made") > 12

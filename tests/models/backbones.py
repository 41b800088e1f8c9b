"""What each backbone costs: `fit` and `predict` with weights that are drawn, not learnt.

python -m tests.models.backbones <folder for runs> <photographs to predict on> [--names=a,b] -- \\
    <flags of a run>

Of each a row: shapes of its three stages at the size of the run, minutes and memory of `fit`, and
milliseconds a photograph and memory of `predict`, whose programs an earlier call has compiled.
"""

import argparse
import re
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

import ddad_jax
from ddad_jax import models, pretrained
from ddad_jax.pretrained.names import table
from tests.commands import timed
from tests.models.seeded import drawn

COLUMNS = ("backbone", "size", "stages", "fit, min", "fit, GB", "predict, ms", "predict, GB")


def measured(name: str, folder: Path, images: Path, flags: list[str]) -> list[str]:
    """A row."""
    network = models.build_extractor(name)
    weights = folder / f"{name}.safetensors"
    variables = unflatten_dict({entry.path: drawn(entry) for entry in table(network)})
    pretrained.save(variables, network, weights)
    del variables
    run = f"--workdir={folder / name}"
    of_it = (f"--config.extractor.name={name}", f"--config.extractor.weights={weights}")
    fit_seconds, fit_memory, _ = timed(*flags, *of_it, run)
    predict = ("--mode=predict", run, f"--images={images}")
    timed(*predict, f"--output={folder / name / 'first'}")
    _, memory, text = timed(*predict, f"--output={folder / name / 'second'}")
    count, seconds = map(float, re.findall(r"(\d+) scored in (\d+) s", text)[-1])
    settings = ddad_jax.load(folder / name).detector.settings
    side = network.side(settings.image_size)
    shape = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    stages = jax.eval_shape(network.apply, models.abstract_variables(network), shape)
    return [
        name,
        f"{side}²",
        ", ".join(f"{each.shape[1]}²×{each.shape[3]}" for each in stages),
        f"{fit_seconds / 60:.1f}",
        f"{fit_memory:.1f}",
        f"{1000 * seconds / count:.0f}",
        f"{memory:.1f}",
    ]


def main() -> None:
    """Measures, and prints a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("flags", nargs="+")
    parser.add_argument("--names", default=",".join(models.EXTRACTORS))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for name in asked.names.split(","):
        row = measured(name, asked.folder, asked.images, asked.flags)
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

import importlib.util
import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from ddad_jax.benchmark import topology
from ddad_jax.benchmark.programs import Trainings
from ddad_jax.benchmark.run import BenchmarkSettings
from ddad_jax.benchmark.seeded import seeded_detector
from ddad_jax.benchmark.topology import bound, compile_for_topology
from ddad_jax.benchmark.topology_tables import topology_markdown
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.errors import UserError
from ddad_jax.machine.platforms import by_platform
from ddad_jax.training.mesh import MeshSettings
from ddad_jax.training.state import TrainSettings
from tests.benchmark.attention import SHAPE, moved
from tests.conftest import lacking

SETTINGS = BenchmarkSettings(
    dtypes=("bfloat16",), batch_sizes=(8,), train_batch_size=8, topology="v5e:2x4"
)
# Two categories, each on four chips that share its parameters.
SIZES = MeshSettings(2, 1, 4)
needs_libtpu = pytest.mark.usefixtures("libtpu")


@pytest.fixture(scope="module")
def libtpu():
    if importlib.util.find_spec("libtpu") is None:
        lacking("libtpu, 0.7 GB, is not installed: pip install 'ddad_jax[tpu]'")


@pytest.fixture(scope="module")
def outlined(network_description):
    """Shapes of a detector of the least networks."""
    description = network_description | {"dtype": "bfloat16"}
    settings = Settings(image_size=64, num_neighbours=5, reconstruction="restored", num_steps=2)
    alpha_bar = jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000))
    return jax.eval_shape(
        lambda: seeded_detector(
            build_networks(**description), settings, alpha_bar, bank_rows=20, patch_rows=64, seed=0
        )
    )


def compiled(outlined, folder, settings=SETTINGS, sizes=SIZES):
    training = TrainSettings(steps=2, batch_size=8)
    trainings = Trainings(training, training, 1000)
    detectors = {"bfloat16": outlined}
    return compile_for_topology(settings, sizes, {}, detectors, trainings, folder)


@pytest.fixture(scope="module")
def document(outlined, tmp_path_factory):
    folder = tmp_path_factory.mktemp("topology")
    compiled(outlined, folder)
    return json.loads((folder / "topology.json").read_text())


def row_of(document, program):
    return next(row for row in document["rows"] if row["program"] == program)


@needs_libtpu
@pytest.mark.slow
def test_every_program_is_compiled_for_chips_that_are_not_there(document):
    names = [row["program"] for row in document["rows"]]
    assert names == ["detect", "training step", "adaptation step"]
    assert document["chip"] == {"kind": "TPU v5 lite", "memory": 2.0**34}
    for row in document["rows"]:
        assert row["fits"] and 0 < row["memory"]["of_chip"] < 1
        assert row["bound"]["seconds"] > 0
    assert topology_markdown(document).count("training step") >= 2


@needs_libtpu
@pytest.mark.slow
def test_a_training_step_gathers_twice_what_it_divides(document, outlined):
    """Once for the forward and once for the backward pass, in the type of the computation."""
    gathered = row_of(document, "training step")["collectives"]["all-gather"]["bytes"]
    kernels = sum(2 * leaf.size for leaf in jax.tree.leaves(outlined.denoiser) if leaf.size >= 1024)
    assert 1.5 * kernels < gathered < 2.5 * kernels
    assert 0 < row_of(document, "training step")["gathered"] < kernels


@needs_libtpu
@pytest.mark.slow
def test_nothing_passes_between_categories(document):
    for row in document["rows"]:
        assert row["collectives"]
        assert all(each["across_categories"] == 0 for each in row["collectives"].values())


@needs_libtpu
def test_what_is_compiled_has_the_forms_of_a_tpu(outlined, tmp_path, monkeypatch):
    def row(each, kind):
        form = jax.jit(lambda x: by_platform(x, tpu=jnp.cos, default=jnp.sin))
        return {"form": form.lower(jnp.ones(3)).as_text()}

    monkeypatch.setattr(topology, "_row", row)
    monkeypatch.setattr(topology, "topology_markdown", lambda _: "")
    rows = compiled(outlined, tmp_path)["rows"]
    assert len(rows) == 3 and all("stablehlo.cosine" in each["form"] for each in rows)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
def test_weights_of_attention_never_leave_the_chip(gradient):
    """Queries, keys, values and the result pass, or three gradients; not 0.5 GB of weights."""
    array = 2 * math.prod(SHAPE)
    found = moved("v5e:2x4", "in parts", gradient)
    assert found.traffic < 1.6 * array * (6 if gradient else 4)
    assert found.temporaries < array


@needs_libtpu
def test_a_slice_that_cannot_be_is_refused(outlined, tmp_path):
    with pytest.raises(UserError, match="'v5e:3x5' is not a TPU slice"):
        compiled(outlined, tmp_path, replace(SETTINGS, topology="v5e:3x5"))


@needs_libtpu
def test_batches_that_chips_cannot_share_are_refused(outlined, tmp_path):
    said = "benchmark.batch_sizes: 6 is not a multiple of the 4 chips"
    with pytest.raises(UserError, match=said):
        compiled(outlined, tmp_path, replace(SETTINGS, batch_sizes=(6,)))


@pytest.mark.parametrize("waiting", [0, 4096])
def test_the_report_says_why_chips_wait_where_they_do(waiting):
    gathered = {"number": 2, "runs": 2, "bytes": 8192, "asynchronous": 1, "across_categories": 0}
    memory = {"arguments": 1, "temporaries": 1, "whole": 2, "of_chip": None}
    row = {
        "program": "detect", "dtype": "float32", "batch_size": 1, "chips": 8, "fits": True,
        "memory": memory, "gathered": 1, "operations": 1.0, "traffic": 1.0, "bound": None,
        "compilation": 1.0, "collectives": {"all-gather": gathered | {"waiting_bytes": waiting}},
    }  # fmt: skip
    chip, mesh = {"kind": "a chip", "memory": None}, {"model": 8}
    text = topology_markdown({"chip": chip, "mesh": mesh, "rows": [row]})
    assert ("Why a chip waits" in text) == bool(waiting)


def test_a_missing_compiler_is_named(outlined, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ddad_jax\[tpu\]'"):
        compiled(outlined, tmp_path)


def test_a_bound_is_what_takes_longest():
    # 197e12 operations and 819e9 bytes take a TPU v5e one second each.
    assert bound(197e12, 819e8, "TPU v5 lite", "bfloat16") == pytest.approx(
        {"seconds": 1.0, "utilisation": 1.0, "limit": "operations"}
    )
    found = bound(197e11, 819e9, "TPU v5 lite", "bfloat16")
    assert found == pytest.approx({"seconds": 1.0, "utilisation": 0.1, "limit": "traffic"})
    assert bound(1.0, 1.0, "cpu", "float32") is None

import json

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.sample import UNKNOWN
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.figures import write_figures, write_training_loss


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 0, 1, 1], {"roc", "precision_recall", "pro", "scores"}),
        ([0, 0, 0], {"scores"}),
        ([UNKNOWN], {"scores"}),
    ],
)
def test_what_is_defined_is_drawn(make_predictions, tmp_path, labels, names):
    labels = np.array(labels)
    masks = np.zeros((len(labels), 16, 16), bool)
    masks[labels == 1, 2:5, 2:5] = True
    predictions = make_predictions(labels, np.linspace(0, 1, len(labels)), masks=masks)
    write_figures(tmp_path / "figures", predictions, compute_curves(predictions))
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {f"{name}{kind}" for name in names for kind in (".png", ".pdf")}
    with Image.open(tmp_path / "figures/scores.png") as image:
        assert image.width > 900


def test_training_loss_of_every_network(tmp_path):
    write_training_loss(tmp_path / "figures", tmp_path)
    assert not (tmp_path / "figures").exists()
    for network in ("autoencoder", "denoiser"):
        (tmp_path / network).mkdir()
        rows = [json.dumps({"step": step, "loss": 1 / step}) for step in (20, 40, 40, 60)]
        rows.insert(2, json.dumps({"step": 50, "best_heldout_loss": 0.1}))
        (tmp_path / network / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    write_training_loss(tmp_path / "figures", tmp_path)
    assert (tmp_path / "figures/training_loss.pdf").read_bytes().startswith(b"%PDF")

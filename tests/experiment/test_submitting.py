import os
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.errors import UserError
from ddad_jax.experiment import submitting
from ddad_jax.experiment.config import load_config, override, read_config
from tests.conftest import lacking
from tests.data.pictures import make_mvtec_ad2
from tests.deploy.conftest import SETTINGS


@pytest.fixture
def submit(tmp_path, detector, network_description, monkeypatch):
    """Function: submits the private images of two objects; returns the folder."""
    if find_spec("tifffile") is None:
        lacking("the package tifffile is not installed")
    for name in ("can", "vial"):
        make_mvtec_ad2(tmp_path / "data", name)
    made_of = {"settings": SETTINGS, "images": {"train": [], "heldout": []}, "networks": {}}
    fitted = FittedDetector(detector, Preprocessing(size=64), network_description, made_of)
    fitted = fitted.with_threshold(1e-3)
    written = []

    def detector_to_evaluate(category):
        category.workdir.mkdir(parents=True, exist_ok=True)
        if not category.detector_path.exists():
            category.detector_path.touch()
        return fitted

    def write_prediction(folder, prediction):
        written.append(prediction.name)
        original(folder, prediction)

    original = submitting.write_prediction
    monkeypatch.setattr(submitting, "write_prediction", write_prediction)
    monkeypatch.setattr(submitting, "detector_to_evaluate", detector_to_evaluate)

    def submit(source="mvtec_ad2"):
        config = load_config("mvtec_ad2")
        settings = {"data.source": source, "data.root": str(tmp_path / "data")}
        override(config, [*settings.items()])
        folder = tmp_path / "runs/submission"
        submitting.submit(read_config(config), tmp_path / "runs", folder)
        return folder, written

    return submit


def test_the_folder_is_what_the_server_takes(submit, caplog):
    """What MVTec's own check looks at, in other words."""
    import tifffile

    folder, written = submit()
    kinds = {"anomaly_images": ".tiff", "anomaly_images_thresholded": ".png"}
    expected = {
        f"{kind}/{name}/{test}/{number:03d}_{word}{suffix}"
        for kind, suffix in kinds.items()
        for name in ("can", "vial")
        for test, word in (("test_private", "regular"), ("test_private_mixed", "mixed"))
        for number in range(2)
    }
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix() for path in files} == expected
    assert Counter(path.suffix for path in files) == {".tiff": 8, ".png": 8}
    for path in files:
        if path.suffix == ".tiff":
            heat = tifffile.imread(path)
            assert heat.dtype == np.float16 and heat.shape == (20, 24)
            assert np.isfinite(heat).all() and heat.std() > 0
        else:
            mask = np.asarray(Image.open(path))
            assert mask.dtype == np.uint8 and mask.shape == (20, 24)
            assert set(np.unique(mask)) <= {0, 255}
    assert any(np.asarray(Image.open(path)).any() for path in files if path.suffix == ".png")
    assert len(written) == 8
    assert "missing: fabric, fruit_jelly, rice, sheet_metal, wallplugs, walnuts" in caplog.text


def test_what_a_detector_has_written_stays_until_there_is_another(submit, tmp_path):
    folder, written = submit()
    lost = folder / "anomaly_images/vial/test_private/000_regular.tiff"
    before = lost.read_bytes()
    lost.unlink()
    written.clear()
    submit()
    assert written == ["vial/test_private/000_regular.png"] and lost.read_bytes() == before
    later = lost.stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "runs/can/detector.safetensors", ns=(later, later))
    written.clear()
    submit()
    assert len(written) == 4 and all(name.startswith("can/") for name in written)


def test_another_data_set_has_no_server(submit):
    with pytest.raises(UserError, match="data.source: 'mvtec': only 'mvtec_ad2' has a server"):
        submit("mvtec")


def test_a_broken_image_is_named(submit, tmp_path):
    (tmp_path / "data/vial/test_private_mixed/001_mixed.png").write_bytes(b"")
    with pytest.raises(UserError, match="001_mixed.png: is empty"):
        submit()

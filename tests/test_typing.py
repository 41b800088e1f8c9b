"""What a type checker says of programs that use the package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RIGHT = """\
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import ddad_jax
from ddad_jax import UserError
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.deploy.prediction import Prediction

detector: FittedDetector = ddad_jax.load("detector.safetensors")
detector = ddad_jax.fit(Path("good"), settings={"detector.blur": 2.0})
prediction: Prediction = detector.predict("photograph.png")
score: float = prediction.score
decision: bool = prediction.decision
peak: int = int(np.argmax(prediction.anomaly_map))
corners = [(region.left, region.top) for region in prediction.regions]
picture: Image.Image = prediction.draw()

of_array: Prediction = detector.predict(np.zeros((8, 8), np.uint8))
of_several: list[Prediction] = detector.predict([Path("a.png"), Path("b.png")], batch_size=4)
one_by_one: Iterator[Prediction] = detector.predict_iter(["a.png", b"", Image.new("L", (8, 8))])
for each in detector.predict_iter(Path().glob("*.png"), on_unreadable="return"):
    print(str(each) if isinstance(each, UserError) else each.score)
stricter: FittedDetector = detector.with_false_alarm_rate(0.001)
stricter.save(Path("stricter.safetensors"))
"""
WRONG = """\
import ddad_jax

detector = ddad_jax.load("detector.safetensors")
detector.predict(3)
detector.predict("a.png").scor
detector.predict(["a.png"]).score
detector.predict_iter(["a.png"], on_unreadable="skip")
ddad_jax.load(3)
for each in detector.predict_iter(["a.png"], on_unreadable="return"):
    each.score
"""
FOUND = {
    4: "call-overload",
    5: "attr-defined",
    6: "attr-defined",
    7: "call-overload",
    8: "arg-type",
    10: "union-attr",
}


@pytest.mark.slow
def test_right_use_passes_and_wrong_use_is_named(tmp_path):
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    # As a package that is installed, so that without py.typed nothing of it would be known.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "right.py", "wrong.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    errors = re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert errors == [("wrong.py", str(line), code) for line, code in FOUND.items()], done.stdout

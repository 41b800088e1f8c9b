"""What the documents show is run as it stands."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddad_jax
from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from tests.test_main import TINY

ROOT = Path(__file__).parents[1]
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=1500).execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.slow
def test_the_python_example_of_the_readme(tmp_path, monkeypatch, capsys):
    """On sixty generated photographs; with the least networks, all else as it is written there."""
    source = synthetic_source(num_train=60, num_test_good=0, num_test_per_defect=1, image_size=96)
    parts = write_mvtec(source, tmp_path)
    (tmp_path / "photos/new").mkdir(parents=True)
    (parts / "train/good").rename(tmp_path / "photos/good")
    (parts / "test/large/0000.png").rename(tmp_path / "photos/new/0001.png")
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        ddad_jax, "fit", functools.partial(ddad_jax.fit, config=str(tmp_path / "tiny.py"))
    )
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert re.search(r"0001.png: (normal|anomalous), score", shown)
    assert (tmp_path / "found.png").stat().st_size > 1000
    assert (tmp_path / "part.safetensors").is_file()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", RUN, ROOT / "docs/start.ipynb", tmp_path / "run.ipynb"],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0, result.stderr
    cells = json.loads((tmp_path / "run.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == 2

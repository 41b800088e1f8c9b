"""What the documents say is so: links, settings, commands and examples.

Shell commands stand in blocks fenced as `sh`. Each block is run, but where the line before it says
`<!-- not run: why -->`; every command is read by the program all the same.
"""

import functools
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ddad_jax
from ddad_jax import main
from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from ddad_jax.experiment import ablation
from ddad_jax.experiment.config import default_config, read_config
from ddad_jax.experiment.modes import MODES
from ddad_jax.experiment.reference import entries
from ddad_jax.experiment.schema import Config
from tests.commands import ddad
from tests.test_requirements import extras
from tests.tiny import write_tiny

ROOT = Path(__file__).parents[1]
# In the order in which a reader goes through them: what one makes, the next may use.
GUIDES = ("docs/own-data.md", "docs/thresholds.md", "docs/predicting.md", "docs/commands.md",
          "README.md", "docs/index.md")  # fmt: skip
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/[!_]*.py"))
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What of a command is another program's, or is set before it.
BEFORE = re.compile(r"^(?:[A-Z_]+=\S+ )*")
PROGRAM = re.compile(r"^(?:ddad_jax|python -m ddad_jax(?:\.main)?)(?= |$)")
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=1500).execute()
nbformat.write(notebook, sys.argv[2])
"""


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def commands_in(block):
    """The commands of a block, each in one line, what stands for a path of the reader's filled."""
    filled = re.sub(r"<[^<>\n]+>", "PLACE", re.sub(r"\\\n\s*", "", block))
    for line in filled.splitlines():
        for command in re.split(r" && ", line):
            yield BEFORE.sub("", command.strip())


def commands_of(page):
    """Every command of a page, or of a config's docstring."""
    text = text_of(page)
    if page.endswith(".py"):
        docstring = re.match(r'r?"""(.*?)"""', text, re.DOTALL)[1].replace("\\\n", " ")
        lines = map(str.strip, docstring.splitlines())
        return [
            each
            for line in lines
            if line.startswith(("ddad_jax ", "python -m "))
            for each in commands_in(line)
        ]
    return [each for _, block in BLOCK.findall(text) for each in commands_in(block)]


def prose_of(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


@functools.cache
def setting_names():
    return {entry.name for entry in entries(Config())}


def is_setting(name):
    """Whether a setting has this name, or one whose value is a table that the rest is in."""
    whole = name.split(".")
    return any(".".join(whole[:count]) in setting_names() for count in range(1, len(whole) + 1))


@pytest.mark.parametrize("page", PAGES + CONFIGS)
def test_commands_are_such_as_the_program_takes(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands_of(page):
        if PROGRAM.match(command):
            _, *arguments = shlex.split(PROGRAM.sub("ddad_jax", command), comments=True)
            own, name, assignments = main._divide(["ddad_jax", *arguments])
            if "--help" in own:
                continue
            main._parse_flags(["ddad_jax", *own])
            main._require_of_mode(main.MODE.value)
            config = main._config(name or "default", assignments)
            if main.MODE.value == "ablate":
                assert ablation.variants(config, main.VARY.value)
        elif command.startswith("python -m "):
            assert importlib.util.find_spec(command.split()[2]), command
        elif found := re.match(r"pip install .*\[([\w,]+)\]", command):
            assert set(found[1].split(",")) <= set(extras()) | {"cuda13"}, command


@pytest.mark.parametrize("page", PAGES)
def test_settings_modes_and_extras_that_are_named_exist(page):
    prose = prose_of(page) if page != "CHANGELOG.md" else ""
    for name in re.findall(r"--config\.([a-z_]+(?:\.\w+)*)", prose):
        assert is_setting(name), name
    sections = {name.partition(".")[0] for name in setting_names() if "." in name}
    for name in re.findall(r"`((?:\w+\.)+\w+)(?:=[^`]*)?`", prose):
        is_file = name.endswith((".json", ".md", ".txt"))
        if name.partition(".")[0] in sections and not is_file:
            assert is_setting(name), name
    for mode in re.findall(r"--mode=(\w+)", prose):
        assert mode in MODES
    for name in re.findall(r"the extra `(\w+)`", prose):
        assert name in extras()


def anchors_of(path):
    """Of every heading, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path.relative_to(ROOT)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / place).resolve() if place else ROOT / page
        assert path.exists(), target
        if anchor and not anchor.startswith("ddad_jax."):
            assert anchor in anchors_of(path), target


def test_the_version_is_the_same_everywhere():
    assert f"version: {ddad_jax.__version__}" in text_of("CITATION.cff").splitlines()
    newest = re.search(r"^## .*?(\d+\.\d+\.\d+)", text_of("CHANGELOG.md"), re.MULTILINE)
    assert ddad_jax.__version__.startswith(newest[1])


def test_the_example_of_a_config_is_one():
    (example,) = re.findall(r"```python\n(.*?)```", text_of("docs/commands.md"), re.DOTALL)
    made = {}
    exec(compile(example, "commands.md", "exec"), made)
    assert read_config(made["get_config"]()) != read_config(default_config())


def photographs(folder, size):
    """Photographs as the guides have them: of good parts, to test, and new ones."""
    source = synthetic_source(num_train=24, num_test_good=3, num_test_per_defect=1, image_size=size)
    parts = write_mvtec(source, folder)
    (folder / "photos").mkdir()
    (parts / "train/good").rename(folder / "photos/good")
    (folder / "photos/new").mkdir()
    (parts / "test/large/0000.png").rename(folder / "photos/new/0001.png")
    (parts / "test/large").rmdir()
    (parts / "test").rename(folder / "photos/test")


@pytest.mark.slow
def test_the_commands_of_the_guides(tmp_path):
    """Each as it stands, but for the networks, which are the least, and for the demo's images."""
    photographs(tmp_path, 64)
    small = "config.extractor.training.steps = 0; config.evaluation.planted = 16; "
    demo = "config.data.settings = dict(num_train=16, num_test_good=2, num_test_per_defect=1)"
    of_source = {"folder": 'config.data.source = "folder"',
                 "demo": f'config.data.source = "synthetic"; {demo}'}  # fmt: skip
    for name, lines in of_source.items():
        write_tiny(tmp_path, name, small + lines)
    run = 0
    for page in GUIDES:
        for not_run, block in BLOCK.findall(text_of(page)):
            for command in commands_in(block):
                # The environment is made by CI.
                if not_run or not PROGRAM.match(command):
                    continue
                _, *arguments = shlex.split(PROGRAM.sub("ddad_jax", command))
                arguments = [
                    re.sub(r"^--config=(folder|demo)$", rf"--config={tmp_path}/\1.py", each)
                    for each in arguments
                ]
                result = ddad(*arguments, cwd=tmp_path)
                assert result.returncode == 0, f"{page}: {command}\n{result.stderr}"
                run += 1
    assert run >= 12
    for made in ("runs/mine/report.html", "runs/mine/validation/report.html",
                 "runs/mine/ablation.md", "found/scores.jsonl", "pictures/regions.json",
                 "pictures/pictures/0001.png.png", "runs/demo/report.html"):  # fmt: skip
        assert (tmp_path / made).is_file(), made


@pytest.mark.slow
def test_the_examples_in_python(tmp_path, monkeypatch, capsys):
    """On generated photographs; with the least networks, all else as it is written there."""
    photographs(tmp_path, 96)
    tiny = str(write_tiny(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ddad_jax, "fit", functools.partial(ddad_jax.fit, config=tiny))
    for page in ("README.md", "docs/python.md"):
        (example,) = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
        exec(compile(example, page, "exec"), {})
    shown = capsys.readouterr().out
    assert re.search(r"0001.png: (normal|anomalous), score", shown)
    assert "promised_rate" in shown
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

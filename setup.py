from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = (here / "ddad_jax" / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]
requirements = (here / "requirements.txt").read_text(encoding="utf-8").splitlines()

setup(
    name="ddad_jax",
    version=version,
    description="Diffusion-based anomaly detection with a dynamic noise level, in JAX and Flax",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The configs stand at the top level, and ship inside the package.
    packages=[*find_packages(include=["ddad_jax", "ddad_jax.*"]), "ddad_jax.configs"],
    package_dir={"ddad_jax.configs": "configs"},
    entry_points={"console_scripts": ["ddad_jax = ddad_jax.main:command"]},
    include_package_data=True,
    package_data={"ddad_jax": ["py.typed", "**/*.html", "**/*.css", "**/*.js"]},
    install_requires=[line for line in requirements if not line.startswith("#")],
    extras_require={
        "elpv": ["elpv-dataset>=1.0.0"],
        # A TFDS data directory in a bucket.
        "gcs": ["gcsfs>=2025.3"],
        # HEIC photographs, as phones take them.
        "heic": ["pillow-heif>=1.0"],
        # Export as ONNX.
        "onnx": ["jax2onnx>=0.17.1", "onnx>=1.20.1", "onnxruntime>=1.24.1"],
        # Parquet manifests.
        "parquet": ["pyarrow>=18.0"],
        # Export as StableHLO.
        "stablehlo": ["flatbuffers>=24.3.25"],
        # 16-bit floating-point maps for MVTec AD 2's server.
        "submission": ["tifffile>=2024.8"],
        "test": [
            "axe-playwright-python>=0.1.4",
            "beartype>=0.20",
            "diffusers==0.42.0",
            "elpv-dataset>=1.0.0",
            "flatbuffers>=24.3.25",
            "import-linter>=2.3",
            "ipykernel>=6.29",
            "jax2onnx>=0.17.1",
            "mypy>=2.4",
            "pillow-heif>=1.0",
            "nbclient>=0.10",
            "onnx>=1.20.1",
            "onnxruntime>=1.24.1",
            "openvino>=2025.4",
            "playwright>=1.50",
            "pyarrow>=18.0",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "tifffile>=2024.8",
            "torch==2.13.0",
        ],
    },
)

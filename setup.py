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
        # The documents as a site.
        "docs": ["latex2mathml>=3.78", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"],
        "elpv": ["elpv-dataset>=1.0.0"],
        # Buckets of Google Cloud Storage.
        "gcs": ["gcsfs>=2025.3"],
        # HEIC photographs, as phones take them.
        "heic": ["pillow-heif>=1.0"],
        # Export as ONNX and StableHLO. jax2onnx keeps Orbax below 0.11.37; hence no part of "test".
        "export": [
            "flatbuffers>=24.3.25",
            "jax2onnx>=0.17.1,<0.18",
            "onnx>=1.20.1",
            "onnx-ir>=0.2.1,<2",
            "onnxruntime>=1.24.1",
        ],
        # How many single faults the tests catch, docs/mutation.md.
        "mutation": ["cosmic-ray>=8.4"],
        # Parquet manifests.
        "parquet": ["pyarrow>=18.0"],
        # Buckets of Amazon S3, and of what speaks its protocol.
        "s3": ["s3fs>=2025.3"],
        # Detectors over HTTP.
        "serve": [
            "h11>=0.16",
            "prometheus_client>=0.21",
            "starlette>=0.46",
            "uvicorn>=0.34",
        ],
        # 16-bit floating-point maps for MVTec AD 2's server.
        "submission": ["tifffile>=2024.8"],
        # The compiler of TPU programs, for --config.benchmark.topology; 0.7 GB.
        "tpu": ["libtpu>=0.0.42"],
        "test": [
            "axe-playwright-python>=0.1.4",
            "beartype>=0.20",
            "diffusers==0.42.0",
            "elpv-dataset>=1.0.0",
            "flatbuffers>=24.3.25",
            "gcp-storage-emulator>=2024.8.3",
            "gcsfs>=2025.3",
            "h11>=0.16",
            "import-linter>=2.3",
            "ipykernel>=6.29",
            "jsonschema>=4.20",
            "moto[server]>=5.1",
            "mypy>=2.4",
            "pillow-heif>=1.0",
            "nbclient>=0.10",
            "playwright>=1.50",
            "prometheus_client>=0.21",
            "pyarrow>=18.0",
            "pytest>=8.3",
            "pytest-xdist>=3.7",
            "pyyaml>=6.0",
            "ruff>=0.12",
            "s3fs>=2025.3",
            "starlette>=0.46",
            "tifffile>=2024.8",
            "torch==2.13.0",
            # The reference of vision transformers.
            "transformers==5.24.0",
            "tritonclient[http]>=2.50",
            "uvicorn>=0.34",
        ],
        # What tests of ONNX need beside "export", in an environment of their own.
        "test-export": [
            "beartype>=0.20",
            "openvino>=2025.4",
            "pytest>=8.3",
            "pytest-xdist>=3.7",
        ],
    },
)

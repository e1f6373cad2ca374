"""Packaging of amc-tf: `device/` and `models/` ship inside the package as amc_tf.device and amc_tf.models."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Top-level folders whose names are too common to be import names of their own.
NESTED_FOLDERS = ("device", "models")


def read_version() -> str:
    """Returns the version that amc_tf/__init__.py states, without importing it."""
    source = (ROOT / "amc_tf" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('amc_tf/__init__.py has no line of the form __version__ = "X.Y.Z".')
    return match.group(1)


def read_requirements() -> list[str]:
    """Returns requirements.txt with each pin NAME==X.Y.Z relaxed to NAME~=X.Y (X.Y or later, same X)."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip() for line in lines]
    return [re.sub(r"==(\d+\.\d+)(\.\d+)*$", r"~=\1", pin) for pin in pins if pin]


def nested_packages() -> list[str]:
    """Returns the import names of the packages that live in the top-level NESTED_FOLDERS."""
    names = []
    for folder in NESTED_FOLDERS:
        names.append(f"amc_tf.{folder}")
        names += [f"amc_tf.{folder}.{name}" for name in find_packages(str(ROOT / folder))]
    return names


setup(
    name="amc-tf",
    version=read_version(),
    description="Learned channel pruning (AMC) for TensorFlow and Keras, timed on the device",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    install_requires=read_requirements(),
    # `--ray` only; the release that its tests run on, and later ones of the same major version.
    extras_require={"ray": ["ray~=2.60"]},
    packages=find_packages(include=["amc_tf", "amc_tf.*"]) + nested_packages(),
    package_dir={f"amc_tf.{folder}": folder for folder in NESTED_FOLDERS},
    package_data={
        "amc_tf": ["py.typed", "templates/*"],
        "amc_tf.models": [
            *("plans/*.json", "tables/*.json", "results/*.json"),
            *("*.keras", "*.npz", "checkpoints/*"),
        ],
    },
    entry_points={"console_scripts": ["amc-tf = amc_tf.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

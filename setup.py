"""Packaging. The fairseq that a Python can use is chosen by environment markers (see docs/install.md).

The C++ extension is compiled where torch and a compiler are there. Otherwise everything is installed without it.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "fairseq_el" / "__init__.py").read_text(), re.M).group(1)
PACKAGE = HERE / "fairseq_el"
NAMES = runpy.run_path(str(PACKAGE / "native" / "file_name.py"))
KERNELS = "fairseq_el/csrc/kernels.cpp"  # without torch's headers, compiled once per level of instructions
FLAGS = ["-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast"]  # never -march=native: nodes differ
if "-g" not in shlex.split(os.environ.get("CFLAGS", "")):
    FLAGS.append("-g0")  # Python's own flags ask for what debuggers read
LEVELS = {"plain": []}  # from low to high; the extension takes one when it runs
if sysconfig.get_platform().endswith("x86_64"):
    LEVELS["avx2"] = ["-mavx2", "-mfma"]
    LEVELS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", *LEVELS["avx2"]]
MACROS = [("FAIRSEQ_EL_X86", "1")] if "avx2" in LEVELS else []


def native_extension():
    """Returns the arguments of setup for the extension; none where it can't be compiled, and says why."""
    if {"egg_info", "dist_info", "sdist"} & set(sys.argv):  # these do not compile, and importing torch takes long
        return {}
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if os.environ.get("FAIRSEQ_EL_NATIVE") == "0":
        return without_extension("FAIRSEQ_EL_NATIVE is 0")
    if os.name == "nt":
        return without_extension("on Windows it has never been tried")
    if not compiler or shutil.which(compiler[0]) is None:
        return without_extension(f"there is no C++ compiler '{' '.join(compiler)}'; install one or set CXX")
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except Exception as error:  # not installed, or a library of it is missing
        return without_extension(
            f"torch can't be imported ({one_line(error)}); install it first, and add --no-build-isolation to pip"
        )
    is_clang = "clang" in subprocess.run([*compiler, "--version"], stdout=subprocess.PIPE).stdout.decode()
    openmp = ["-fopenmp"] if has_openmp(compiler) else []
    old_torch = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 1)  # newer ones ask for C++17 or C++20
    extension = CppExtension(
        NAMES["MODULE"],
        sorted({path.relative_to(HERE).as_posix() for path in PACKAGE.glob("csrc/*.cpp")} - {KERNELS}),
        define_macros=MACROS,
        extra_compile_args=[*FLAGS, *openmp, *(["-std=c++17"] if old_torch else [])],
        # g++'s OpenMP is in torch: linked here, a second one would be loaded, with threads of its own.
        extra_link_args=openmp if is_clang else [],
        depends=headers(),
        optional=True,
    )
    stem = NAMES["file_stem"](torch.__version__, PACKAGE)

    class BuildNative(BuildExtension):
        def finalize_options(self):
            super().finalize_options()
            # pip's own directory is a new one every time; in this one, only what has changed is compiled again.
            self.build_temp = str(Path("build") / f"native-torch-{torch.__version__}-{sys.implementation.cache_tag}")

        def get_ext_filename(self, name):
            path = Path(super().get_ext_filename(name))
            return str(path.with_name(path.name.replace("_native", stem, 1)))

        def build_extensions(self):
            try:
                remove_others(Path(self.get_ext_fullpath(NAMES["MODULE"])), "_native-*")  # none of them in a wheel
                # The linker takes the first of several copies of an inline function. From low to high, a machine
                # never runs a copy with instructions that it lacks.
                with ThreadPoolExecutor() as pool:
                    extension.extra_objects = list(pool.map(lambda level: compile_kernels(self, level), LEVELS))
                super().build_extensions()
            except Exception as error:
                without_extension(f"compiling failed ({one_line(error)}); the compiler's messages are above")

        def copy_extensions_to_source(self):
            super().copy_extensions_to_source()
            name = Path(self.get_ext_filename(NAMES["MODULE"])).name
            remove_others(
                PACKAGE / name, f"_native-torch-{torch.__version__}-*{sysconfig.get_config_var('EXT_SUFFIX')}"
            )

    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildNative}}


def has_openmp(compiler):
    """Tells whether the compiler has OpenMP. Apple's has none; clang's is a package of its own."""
    command = [*compiler, "-fopenmp", "-fsyntax-only", "-x", "c++", "-"]
    found = subprocess.run(command, input=b"#include <omp.h>\n", stderr=subprocess.DEVNULL).returncode == 0
    if not found:  # at::parallel_for can be compiled, and runs in one thread
        print(f"fairseq_el's native code will run in one thread: '{' '.join(compiler)}' has no OpenMP", flush=True)
    return found


def headers():
    return sorted(path.relative_to(HERE).as_posix() for path in PACKAGE.glob("csrc/*.h"))


def compile_kernels(command, level):
    """Compiles the kernels for one level, unless that has been done already, and returns the object's path."""
    directory = Path(command.build_temp) / level
    built = directory / Path(KERNELS).with_suffix(".o")
    inputs = [KERNELS, *headers(), "setup.py"]
    if not built.exists() or built.stat().st_mtime < max(os.stat(path).st_mtime for path in inputs):
        command.compiler.compile(
            [KERNELS],
            output_dir=str(directory),
            macros=[*MACROS, ("FAIRSEQ_EL_LEVEL", level)],
            extra_postargs=[*FLAGS, "-std=c++17", *LEVELS[level]],
        )
    return str(built)


def remove_others(keep, pattern):
    """Removes extensions of earlier sources from the directory of one file."""
    for path in keep.parent.glob(pattern):
        if path.name != keep.name:
            path.unlink()


def one_line(error):
    return " ".join(f"{type(error).__name__}: {error}".split())


def without_extension(reason):
    print(f"fairseq_el is installed without its native code: {reason}", flush=True)
    return {}


setup(
    name="fairseq_el",
    version=VERSION,
    description="EL-attention for fairseq: decode Transformer and BART checkpoints without a cross-attention cache",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["fairseq_el", "fairseq_el.*"]),
    package_data={"fairseq_el": ["py.typed", "csrc/*.cpp", "csrc/*.h"]},
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
        # Newer pyarrow needs numpy 2, and fairseq's language models numpy 1; there is no older one for Python 3.13.
        "ray": ["ray[data]>=2.10", 'pyarrow<20; python_version < "3.13"'],
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
    **native_extension(),
)

"""Compiles the kernels in C, once for each instruction level; pyproject.toml has the metadata.

The libraries are plain C and are loaded with ctypes. They are declared as optional extension
modules, because setuptools rebuilds those when a source changes, builds them in place for an
editable installation, and continues without them where they cannot be built.
"""

import hashlib
import json
import os
import re
from copy import copy
from pathlib import Path
from shutil import which
from sysconfig import get_config_var, get_platform

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("plstm_graph/ops/native")
SOURCES = sorted(str(path) for path in NATIVE.glob("*.c"))
# -g0, because Python's own flags may ask for debug information; -Wno-psabi, because only static
# functions pass vectors that are wider than the registers of the level. With -fno-trapping-math a
# choice between two numbers is no branch, so that loops with one become vectors.
FLAGS = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-g0", "-Wno-psabi"]
# What torch calls AVX2 and AVX512 implies these instructions.
LEVELS = {"baseline": []}
if get_platform().endswith(("x86_64", "amd64")):
    LEVELS["avx2"] = ["-mavx2", "-mfma"]
    LEVELS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"]


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class BuildKernels(build_ext):
    """Extension ``...native.LEVEL`` -> ``native/kernels.LEVEL.so``, and ``libraries.json``."""

    def get_ext_filename(self, fullname):
        *folder, level = fullname.split(".")
        return os.path.join(*folder, f"kernels.{level}.so")

    def get_export_symbols(self, ext):
        return []  # there is no PyInit_*

    def build_extension(self, ext):
        level = copy(self)  # Levels are compiled at once, and share the name of their object file.
        level.build_temp = os.path.join(self.build_temp, ext.name.rpartition(".")[2])
        try:
            build_ext.build_extension(level, ext)
        except Exception:
            # The library of an earlier build has other sources; it must not be shipped.
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            raise

    def run(self):
        self.parallel = True
        super().run()
        built = {
            level: digest(path)
            for level in LEVELS
            if (path := Path(self.build_lib, NATIVE, f"kernels.{level}.so")).exists()
        }
        text = "".join(Path(path).read_text(encoding="utf-8") for path in SOURCES)
        manifest = {
            "libraries": built,
            "sources": {Path(path).name: digest(path) for path in SOURCES},
            "kernels": sorted(set(re.findall(r"^void NAME\((\w+)\)\(", text, re.MULTILINE))),
        }
        for folder in [self.build_lib, "."] if self.inplace else [self.build_lib]:
            path = Path(folder, NATIVE, "libraries.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if failed := [level for level in LEVELS if level not in built]:
            self.warn(
                f"the C kernels were NOT built for: {', '.join(failed)} (see above). plstm_graph "
                "works without them, but is slower; install gcc or clang and reinstall it"
            )


class KernelWheel(bdist_wheel):
    """A wheel for every Python 3; for this platform only, if it carries libraries."""

    def get_tag(self):
        outputs = self.get_finalized_command("build_ext").get_outputs()
        self.root_is_pure = not any(map(os.path.exists, outputs))
        return "py3", "none", super().get_tag()[2]


# The compiler that Python was built with may be missing where another one is installed.
if "CC" not in os.environ and not which((get_config_var("CC") or "cc").split()[0]):
    os.environ["CC"] = next(filter(which, ("cc", "gcc", "clang")), "cc")

setup(
    ext_modules=[
        Extension(
            f"{'.'.join(NATIVE.parts)}.{level}",
            [(NATIVE / "kernels.c").as_posix()],
            depends=[*SOURCES, "setup.py"],
            extra_compile_args=[*FLAGS, *flags],
            libraries=[] if os.name == "nt" else ["m"],
            optional=True,
        )
        for level, flags in LEVELS.items()
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": KernelWheel},
)

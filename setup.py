"""Builds the kernels of ``saqsam.native`` where a C++ compiler is found; without one the rest is installed.

What is built is a plain shared library that is loaded by ``ctypes``: it knows nothing of Python, so one wheel
serves every version of it.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("src/saqsam/native/csrc")
COMMON = (
    *("-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"),
    *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),  # GCC 12 warns about its own AVX-512 headers
)
AVX512 = ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
X86 = {
    "level_avx2": ("-mavx2", "-mfma"),
    "level_avxvnni": ("-mavx2", "-mfma", "-mavxvnni"),
    "level_avx512vnni": AVX512,
    "level_amx": (*AVX512, "-mamx-tile", "-mamx-int8"),
}
ARM = {"level_neondotprod": ("-march=armv8.2-a+dotprod",)}
INSTRUCTIONS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}


def flags_for(source: str) -> tuple[str, ...]:
    """Instructions that a file is compiled for; a file without its instructions says that it has no level."""
    return INSTRUCTIONS.get(platform.machine().lower(), {}).get(Path(source).stem, ())


class BuildKernels(build_ext):
    """Compiles each file for the instructions that it is about."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where ``saqsam.native.library`` looks for it: no version of Python in the name."""
        return os.path.join(*fullname.split(".")[:-1], "libsaqsam_native.so")

    def build_extension(self, ext: Extension) -> None:
        """Compile and link; an error leaves the library out, since it is optional."""
        if self.compiler.compiler_type == "msvc":
            raise CompileError("saqsam.native is written for g++ and clang++")
        objects: list[str] = []
        for source in ext.sources:
            objects += self._compile(source)
        target = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(
            objects, target, extra_postargs=["-pthread"], build_temp=self.build_temp, target_lang="c++"
        )

    def _compile(self, source: str) -> list[str]:
        for flags in (flags_for(source), ()):
            try:
                return self.compiler.compile(
                    [source], self.build_temp, extra_postargs=[*COMMON, *flags, "-pthread"]
                )
            except CompileError:
                if not flags:
                    raise
        return []

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None of Python's."""
        return []


class PlainWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """``py3-none-<platform>``."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "saqsam.native.kernels",
            sorted(map(str, SOURCES.glob("*.cpp"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlainWheel},
)

"""The one part of the build that setup.cfg cannot say: the compiled loops."""

from glob import glob

from setuptools import Extension, setup

OPTIONS = [
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-Wno-unused-function",
]

# optional: where no compiler is, torch operations do the same work
KERNELS = Extension(
    "dathvd.compression._kernels",
    sources=["dathvd/compression/native/kernels.cpp"],
    depends=sorted(glob("dathvd/compression/native/*.h")),
    # products are rounded before they are added, as torch does
    extra_compile_args=[*OPTIONS, "-ffp-contract=off"],
    optional=True,
)
WINOGRAD = Extension(
    "dathvd.attacks._winograd",
    sources=["dathvd/attacks/native/winograd.cpp"],
    depends=sorted(glob("dathvd/attacks/native/*.h")),
    extra_compile_args=[*OPTIONS, "-ffp-contract=fast"],
    optional=True,
)

setup(ext_modules=[KERNELS, WINOGRAD])

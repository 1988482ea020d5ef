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
    "dathvd.convolutions._winograd",
    sources=["dathvd/convolutions/native/winograd.cpp"],
    depends=sorted(glob("dathvd/convolutions/native/*.h")),
    extra_compile_args=[*OPTIONS, "-ffp-contract=fast"],
    optional=True,
)
TILES = Extension(
    "dathvd.convolutions._tiles",
    sources=["dathvd/convolutions/native/tiles.cpp"],
    depends=sorted(glob("dathvd/convolutions/native/*.h")),
    extra_compile_args=[*OPTIONS, "-ffp-contract=fast", "-Wno-maybe-uninitialized"],
    optional=True,
)

setup(ext_modules=[KERNELS, WINOGRAD, TILES])

"""The one part of the build that setup.cfg cannot say: the codecs' kernels."""

from glob import glob

from setuptools import Extension, setup

# optional: where no compiler is, the codecs fall back on torch, with the same results
KERNELS = Extension(
    "dathvd.compression._kernels",
    sources=["dathvd/compression/native/kernels.cpp"],
    depends=sorted(glob("dathvd/compression/native/*.h")),
    # products are rounded before they are added, as torch does
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-Wno-psabi",
        "-Wno-unused-function",
    ],
    optional=True,
)

setup(ext_modules=[KERNELS])

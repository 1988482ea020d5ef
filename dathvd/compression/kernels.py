"""The codecs' compiled loops; where they are not, torch operations give the same bits.

Calls are single-threaded and may run in several threads at once.
"""

from __future__ import annotations

from dathvd.native import TARGETS, Native

_native = Native(
    "dathvd.compression._kernels",
    {
        "sign_encode": "ppppnf",
        "sign_decode": "pnnpnf",
        "int8_encode": "ppppnfnuu",
        "int8_decode": "pnnpnf",
        "int4_encode": "ppppnfnuu",
        "int4_decode": "pnnpnf",
        "topk_encode": "ppppnfnn",
        "topk_decode": "pnnpnfnn",
    },
)
available = _native.available
takes = _native.takes
call = _native.call
target = _native.target
at_most = _native.at_most
without_kernels = _native.switched_off
__all__ = [
    "TARGETS",
    "at_most",
    "available",
    "call",
    "takes",
    "target",
    "without_kernels",
]

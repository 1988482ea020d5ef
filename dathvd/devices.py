"""How torch computes on a device: precision and determinism, as configured."""

from __future__ import annotations

import ctypes
import os

import torch
from torch import Tensor

from dathvd.config import Config, TrainConfig
from dathvd.errors import UserError

_MALLOC_OPTIONS = {-3: 1 << 30, -1: 1 << 30, -2: 64 << 20}
"""M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD of glibc's malloc.h, in bytes, as
``dathvd launch`` sets them by the environment."""


def set_up_device(device: torch.device, config: TrainConfig) -> None:
    """Make torch work as ``train.tf32`` and ``train.deterministic`` say.

    Both are global settings, of GPUs alone. On CPUs, memory is kept.
    """
    if device.type != "cuda":
        keep_pages()
        return
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.deterministic = config.deterministic
    torch.backends.cudnn.benchmark = not config.deterministic


def keep_pages() -> None:
    """Let this process keep large blocks of memory that it frees, for its next ones.

    As glibc comes, each tensor above 32 MiB is new pages, which the kernel clears when
    they are touched. Where another allocator is in its place, or the environment has
    settings for it (``MALLOC_...``), nothing changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    for option, value in _MALLOC_OPTIONS.items():
        set_option(option, value)


def check_precision(device: torch.device, config: Config) -> None:
    """Refuse ``train.precision`` and ``attack.precision`` bf16 on a CPU that would
    emulate it, unless ``train.emulate_bf16`` asks for that.

    Raises:
        UserError: the CPU has neither avx512_bf16 nor AMX.
    """
    asked = [
        section
        for section in ("train", "attack")
        if getattr(config, section).precision == "bf16"
    ]
    if device.type != "cpu" or not asked or config.train.emulate_bf16:
        return
    if not (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    ):
        raise UserError(
            f"{asked[0]}.precision: this CPU has no instructions for bfloat16 "
            "(avx512_bf16 or AMX) and would be many times slower with it; take fp32, "
            "or train.emulate_bf16=true"
        )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a host's tensor on the device, or the tensor itself; nothing waits.

    On GPUs it goes through pinned memory: a copy from any other memory makes the host
    wait until it is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

"""A start of optimizers that leaves torch's compiler out."""

from __future__ import annotations

import sys

from torch.optim import Optimizer

_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
_MARK = "__dynamo_disable"


def leave_out_compiler() -> None:
    """Let optimizers be made without an import of ``torch._dynamo``.

    torch keeps these methods out of compiled programs by a wrapper that imports its
    compiler at the first call: 1.2 s of CPU time and 144 MB in each rank (torch 2.13),
    though no step of an optimizer is compiled here. The wrapper asks its function for
    a mark first; the mark that is set here makes it call the function as it is. A
    program that has imported the compiler already, and a torch without such a wrapper,
    are left alone.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in _WRAPPED:
        function = getattr(vars(Optimizer)[name], "__wrapped__", None)
        if function is not None and not hasattr(function, _MARK):
            setattr(function, _MARK, function)

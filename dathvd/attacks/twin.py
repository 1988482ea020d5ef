"""A model's twin for attacks: its own layout, precision and folded weights.

An attack runs the same weights many times and differentiates the inputs alone. The
twin is traced once and derives its weights anew for every attack: without gradients of
their own, batch norm folded into the convolution before it, in the memory layout and
precision that the hardware likes, on processors with convolutions of fewer products.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dathvd.attacks.forward import Forward
from dathvd.attacks.fused import Around, FusedConv2d
from dathvd.attacks.fusing import fuse
from dathvd.attacks.graphs import Replayed, can_capture, new_pool
from dathvd.convolutions import Kernel, kernel_for

Network = Callable[[Tensor], Tensor]
"""A function of images: their logits."""
_Refresh = Callable[[], None]


class Twin:
    """The same function as a model in eval mode, up to rounding.

    Args:
        model: in eval mode; its graph must not depend on values.
        options: what to derive.

    Raises:
        Exception: whatever tracing raises where the graph does depend on values.
    """

    def __init__(self, model: nn.Module, options: Forward) -> None:
        self._originals = list(model.modules())[1:]  # the model itself may be collected
        self._refresh: list[_Refresh] = []
        self._options = options
        graph = _Tracer().trace(model)
        self._network = fx.GraphModule(model, graph)
        self._replace_layers(graph)
        self._network.recompile()
        run: Network = (
            torch.compile(self._network) if options.compile else self._network
        )
        self._run = in_bf16(run) if options.bf16 else run
        self._places: list[int] = []
        self._derive_all = Replayed(self._derive)
        self.graphs: dict[Hashable, Any] = {}
        """Steps of attacks on these weights by attack and batch; None: seen once."""
        self.pool: object = None
        """The graphs' device memory."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        if self._options.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self._run(images)

    @property
    def captures(self) -> bool:
        """Whether attacks may capture their work on this twin."""
        return self._options.cuda_graph

    def stands_for(self, model: nn.Module) -> bool:
        """Whether no module of the model was exchanged since the twin was made."""
        now = list(model.modules())[1:]
        return len(now) == len(self._originals) and all(
            one is other for one, other in zip(now, self._originals)
        )

    @torch.no_grad()
    def refresh(self) -> None:
        """Derive all weights from the model's present ones, where the last ones were.

        What was captured stays valid, unless the model's own tensors have moved.
        """
        tensors = [
            tensor
            for module in self._originals
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        ]
        places = [tensor.data_ptr() for tensor in tensors]
        if places != self._places:
            self._places = places
            self.graphs.clear()
            self.pool = new_pool(tensors[0]) if tensors else None
            self._derive_all = Replayed(self._derive, self.pool)
        if self.captures and tensors and all(map(can_capture, tensors)):
            self._derive_all()
        else:
            self._derive()

    def _derive(self) -> None:
        for derive in self._refresh:
            derive()

    def _replace_layers(self, graph: fx.Graph) -> None:
        calls = [node for node in graph.nodes if node.op == "call_module"]
        layers = {str(node.target): _layer(self._network, node) for node in calls}
        folds = self._options.fold_batch_norm
        folded = _foldable(calls, layers) if folds else {}
        kernels = self._kernels(layers)
        fused = fuse(graph, layers, set(kernels), folded, norms=folds)
        gone = {*folded.values(), *(each.norm for each in fused.values())}
        for target, original in layers.items():
            norm = layers[folded[target]] if target in folded else None
            if target in gone:
                self._put(target, nn.Identity())
            elif target in fused:
                self._fuse(
                    target, original, kernels[target], fused[target], norm, layers
                )
            elif not _has_hooks(original):  # a hook may set the layer's weights
                twin = _empty_copy(original)
                self._put(target, twin)
                self._refresh.append(self._derivation(twin, original, norm))

    def _kernels(self, layers: Mapping[str, nn.Module]) -> dict[str, Kernel]:
        """The kernel of each convolution that has one, by name."""
        if not self._options.winograd:
            return {}
        dtype = torch.bfloat16 if self._options.bf16 else torch.float32
        found = {
            target: kernel_for(layer, dtype)
            for target, layer in layers.items()
            if not _has_hooks(layer)
        }
        return {target: kernel for target, kernel in found.items() if kernel}

    def _fuse(
        self,
        target: str,
        original: nn.Module,
        kernel: Kernel,
        around: Around,
        folded: nn.Module | None,
        layers: Mapping[str, nn.Module],
    ) -> None:
        assert isinstance(original, nn.Conv2d)
        dtype = torch.bfloat16 if self._options.bf16 else torch.float32
        fused = FusedConv2d(original, kernel, dtype, around)
        self._put(target, fused)
        before = layers[around.norm] if around.norm else None
        self._refresh.append(partial(_set, fused, original, folded, before))

    def _put(self, target: str, module: nn.Module) -> None:
        parent, _, name = target.rpartition(".")
        setattr(self._network.get_submodule(parent), name, module)

    def _derivation(
        self, twin: nn.Module, original: nn.Module, norm: nn.Module | None
    ) -> _Refresh:
        own: dict[str, Tensor] = {}

        def derive() -> None:
            tensors: dict[str, Tensor | None] = dict(
                original.named_parameters(recurse=False)
            )
            if isinstance(original, nn.Conv2d):
                weight, bias = _weights(original, norm)
                tensors = {"weight": self._laid_out(weight), "bias": bias}
            half = self._options.bf16 and isinstance(original, (nn.Conv2d, nn.Linear))
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if half and tensor.dtype is torch.float32:
                    # rounded here once; autocast would do it in every forward pass
                    tensor = tensor.bfloat16()
                source = original._parameters.get(name)
                is_shared = (
                    source is not None and tensor.data_ptr() == source.data_ptr()
                )
                if name in own and _takes(own[name], tensor) and not is_shared:
                    own[name].copy_(tensor)
                elif name not in own or own[name].data_ptr() != tensor.data_ptr():
                    parameter = nn.Parameter(tensor, requires_grad=False)
                    own[name] = twin._parameters[name] = parameter

        return derive

    def _laid_out(self, weight: Tensor) -> Tensor:
        if not self._options.channels_last:
            return weight
        return weight.contiguous(memory_format=torch.channels_last)


def in_bf16(network: Network) -> Network:
    """The network with its convolutions and matrix products in bfloat16."""

    def run(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            logits = network(images)
        return logits.to(images.dtype)

    return run


def _takes(held: Tensor, tensor: Tensor) -> bool:
    """Whether one tensor can be written into another's place."""
    return (
        held.shape == tensor.shape
        and held.stride() == tensor.stride()
        and held.dtype == tensor.dtype
        and held.device == tensor.device
    )


def fold(
    weight: Tensor, bias: Tensor | None, norm: _BatchNorm
) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution for it and ``norm`` in eval mode.

    With s = gamma / sqrt(var + eps): s * weight, and beta + s * (bias - mean).
    """
    scale, shift = affine(norm)
    if bias is not None:
        shift = shift + scale * bias
    return weight * scale.view(-1, 1, 1, 1), shift


def affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """A norm in eval mode as scale and shift of each channel.

    They are s = gamma / sqrt(var + eps), and beta - s * mean.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


def _weights(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of a convolution and of the norm that is folded into it."""
    if norm is None:
        return conv.weight, conv.bias
    assert isinstance(norm, _BatchNorm)
    return fold(conv.weight, conv.bias, norm)


def _set(
    fused: FusedConv2d,
    conv: nn.Conv2d,
    folded: nn.Module | None,
    before: nn.Module | None,
) -> None:
    """Give the fused convolution the present weights, of the norms around it, too."""
    assert before is None or isinstance(before, _BatchNorm)
    fused.set(*_weights(conv, folded), None if before is None else affine(before))


class _Tracer(fx.Tracer):
    """A tracer that takes every layer of torch, and every batch norm, as a whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, _BatchNorm):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def _layer(network: fx.GraphModule, node: fx.Node) -> nn.Module:
    return network.get_submodule(str(node.target))


def _foldable(calls: list[fx.Node], layers: dict[str, nn.Module]) -> dict[str, str]:
    """Convolution to the batch norm that alone uses its output, by name."""
    uses = Counter(id(layers[str(node.target)]) for node in calls)
    pairs: dict[str, str] = {}
    for node in calls:
        norm, source = layers[str(node.target)], node.all_input_nodes[0]
        if source.op != "call_module" or len(source.users) != 1:
            continue
        conv = layers[str(source.target)]
        fits = type(conv) is nn.Conv2d and isinstance(norm, _BatchNorm)
        once = uses[id(norm)] == uses[id(conv)] == 1
        if fits and once and norm.running_var is not None:
            if not _has_hooks(conv, norm):
                pairs[str(source.target)] = str(node.target)
    return pairs


def _has_hooks(*modules: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _empty_copy(module: nn.Module) -> nn.Module:
    """The same layer, whose parameters can be set without changing the original's."""
    twin = copy.copy(module)
    twin.__dict__["_parameters"] = dict(module._parameters)
    return twin.eval()


_twins: WeakKeyDictionary[nn.Module, dict[Forward, Twin | None]] = WeakKeyDictionary()


def twin_of(model: nn.Module, options: Forward) -> Twin | None:
    """The model's twin with its present weights; None where it cannot be traced.

    Args:
        model: in eval mode.
        options: what to derive.
    """
    if _has_hooks(model):
        return None
    known = _twins.setdefault(model, {})
    twin = known.get(options)
    if options not in known or (twin is not None and not twin.stands_for(model)):
        twin = known[options] = _traced(model, options)
    if twin is not None:
        twin.refresh()
    return twin


def _traced(model: nn.Module, options: Forward) -> Twin | None:
    try:
        return Twin(model, options)
    except Exception as error:  # fx raises whatever the model's code raises on proxies
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"the attack runs {type(model).__name__} as it is, without channels_last, "
            f"fold_batch_norm, compile and cuda_graph: it cannot be traced: {reason}",
            stacklevel=2,
        )
        return None

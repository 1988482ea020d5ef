"""Convolutions of an attack's own network, with what stands before and after them.

An attack runs the same weights many times: they are prepared once. Batch norm with
ReLU before a convolution, and a residual and ReLU after it, are computed while its
images and outputs are read and written, both ways.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from dathvd.convolutions import Fusion, Kernel, room, shape_of


@dataclass
class Around:
    """What one convolution takes over."""

    norm: str | None = None
    """The name of the batch norm before it, whose output it takes through a ReLU."""
    rectified: bool = False
    """Whether a ReLU takes its outputs."""


class FusedConv2d(nn.Module):
    """A convolution that has a kernel; its weights get no gradient.

    Args:
        layer: whose shape it has.
        kernel: what computes it.
        dtype: of images and factors, float32 or bfloat16.
        around: what it takes over.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        kernel: Kernel,
        dtype: torch.dtype = torch.float32,
        around: Around | None = None,
    ) -> None:
        super().__init__()
        self.kernel, self.shape, self.dtype = kernel, shape_of(layer), dtype
        self.around = around or Around()
        self.weight = torch.empty(layer.weight.shape)
        self.bias: Tensor | None = None
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None
        self.factors = room(kernel, layer.weight, dtype)
        self.adjoint_factors = room(kernel, layer.weight, dtype)
        self._is_prepared = False

    def set(
        self,
        weight: Tensor,
        bias: Tensor | None,
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take new weights.

        Args:
            weight: float32 ``[out, in, kernel, kernel]``.
            bias: float32 ``[out]``.
            affine: scale and shift of each channel in, where a norm stands before.
        """
        self.weight, self.bias = weight.contiguous(), bias
        self.scale, self.shift = affine or (None, None)
        self._is_prepared = False

    def forward(self, images: Tensor, residual: Tensor | None = None) -> Tensor:
        """``[N, in, H, W]`` to ``[N, out, H / stride, W / stride]``."""
        if torch.is_autocast_enabled("cpu"):
            images = images.to(self.dtype)
        if residual is not None:
            residual = residual.to(images.dtype)
        suits = images.dtype is self.dtype and (
            residual is None or residual.shape == self.shape.outputs_of(images)
        )
        if not (suits and self.kernel.takes(images, self.shape, prepared=True)):
            return self._by_torch(images, residual)
        if not self._is_prepared:
            self.kernel.transform(self.weight, self.factors)
            self.kernel.transform(self.weight, self.adjoint_factors, adjoint=True)
            self._is_prepared = True
        found: Tensor = _Convolution.apply(
            images, residual, self
        )  # type: ignore[no-untyped-call]
        return found

    def _by_torch(self, images: Tensor, residual: Tensor | None) -> Tensor:
        if self.scale is not None and self.shift is not None:
            scaled = images * self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)
            images = F.relu(scaled).to(images.dtype)
        # where weights are most of what is read, oneDNN is slower in channels last
        images = images.contiguous()
        stride, padding = self.shape.stride, self.shape.kernel // 2
        outputs = F.conv2d(images, self.weight, self.bias, stride, padding)
        if residual is not None:
            outputs = outputs + residual
        return F.relu(outputs) if self.around.rectified else outputs


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, residual: Tensor | None, layer: FusedConv2d
    ) -> Tensor:
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        fusion = Fusion(
            scale_in=layer.scale,
            shift_in=layer.shift,
            bias=layer.bias,
            residual=residual,
            rectified=layer.around.rectified,
        )
        outputs = layer.kernel.convolve(images, layer.factors, layer.shape, fusion)
        ctx.layer, ctx.size, ctx.affine = layer, images.shape, (layer.scale, layer.shift)
        ctx.save_for_backward(
            images if layer.scale is not None else None,
            outputs if layer.around.rectified else None,
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layer: FusedConv2d = ctx.layer
        gate, mask = ctx.saved_tensors
        scale, shift = ctx.affine
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if mask is not None and ctx.needs_input_grad[1]:
            gradient, mask = torch.ops.aten.threshold_backward(gradient, mask, 0), None
        of_images = None
        if ctx.needs_input_grad[0]:
            fusion = Fusion(mask=mask, gate=gate, scale_out=scale, shift_out=shift)
            of_images = layer.kernel.adjoint(
                gradient, layer.adjoint_factors, layer.shape, ctx.size, fusion
            )
        return of_images, gradient if ctx.needs_input_grad[1] else None, None


def fuse(
    graph: fx.Graph,
    layers: Mapping[str, nn.Module],
    convolutions: set[str],
    folded: Mapping[str, str],
    *,
    norms: bool,
) -> dict[str, Around]:
    """Rewrite the graph so that convolutions take over what is around them.

    Args:
        graph: of a network; what is taken over leaves it.
        layers: of its calls, by name.
        convolutions: names of those that become ``FusedConv2d``.
        folded: the batch norm that is folded into a convolution, by that one's name.
        norms: whether batch norms before a ReLU may be taken over.

    Returns:
        What each of the convolutions takes over.
    """
    found = {target: Around() for target in convolutions}
    uses = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        target = str(node.target)
        if node.op != "call_module" or target not in found or uses[target] > 1:
            continue
        if norms:
            norm = _norm_before(node, layers)
            if norm is not None and str(norm.target) not in folded.values():
                if uses[str(norm.target)] == 1:
                    found[target].norm = str(norm.target)
                    _bypass(node, norm)
        last = _take_sum(graph, node, _only_user(node) if target in folded else node)
        rectifier = _only_user(last)
        if rectifier is not None and _is_relu(rectifier, layers):
            found[target].rectified = True
            rectifier.replace_all_uses_with(last)
            graph.erase_node(rectifier)
    return found


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _norm_before(node: fx.Node, layers: Mapping[str, nn.Module]) -> fx.Node | None:
    """The batch norm whose output the convolution alone takes, through a ReLU."""
    rectifier = node.args[0]
    if not isinstance(rectifier, fx.Node) or not _is_relu(rectifier, layers):
        return None
    norm = rectifier.args[0]
    if not isinstance(norm, fx.Node) or len(rectifier.users) != 1:
        return None
    layer = layers.get(str(norm.target)) if norm.op == "call_module" else None
    if not isinstance(layer, _BatchNorm) or layer.running_var is None:
        return None
    has_hooks = layer._forward_hooks or layer._forward_pre_hooks
    return norm if len(norm.users) == 1 and not has_hooks else None


def _bypass(node: fx.Node, norm: fx.Node) -> None:
    """Let the convolution take what the norm took."""
    rectifier = node.args[0]
    assert isinstance(rectifier, fx.Node)
    node.replace_input_with(rectifier, norm.all_input_nodes[0])
    node.graph.erase_node(rectifier)
    node.graph.erase_node(norm)


def _take_sum(graph: fx.Graph, node: fx.Node, last: fx.Node | None) -> fx.Node:
    """Let the convolution add what its output is added to, where it is added once.

    Returns:
        The node that stands for the convolution's output.
    """
    assert last is not None
    total = _only_user(last)
    if total is None or total.op != "call_function" or total.kwargs:
        return last
    pair = list(total.args)
    in_place = total.target is operator.iadd and pair[0] is last
    if not (in_place or total.target in (operator.add, torch.add)) or len(pair) != 2:
        return last
    other = pair[1] if pair[0] is last else pair[0]
    if not isinstance(other, fx.Node) or other is last:
        return last
    with graph.inserting_before(total):
        summed = graph.call_module(str(node.target), (node.args[0], other))
    total.replace_all_uses_with(summed)
    for each in dict.fromkeys((total, last, node)):
        graph.erase_node(each)
    return summed


def _is_relu(node: fx.Node, layers: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        layer = layers.get(str(node.target))
        return type(layer) is nn.ReLU and not layer._forward_hooks
    if node.op == "call_method":
        return node.target == "relu"
    return node.op == "call_function" and node.target in (F.relu, torch.relu)

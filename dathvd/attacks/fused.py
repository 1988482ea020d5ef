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
from functools import partial
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
    passes: bool = False
    """Whether it also returns its images, for the other one that takes them: their
    gradient then comes here, and is added to this one's in the same pass."""


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

    def forward(
        self, images: Tensor, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """``[N, in, H, W]`` to ``[N, out, H / stride, W / stride]``."""
        if torch.is_autocast_enabled("cpu"):
            images = images.to(self.dtype)
        if residual is not None:
            residual = residual.to(images.dtype)
        suits = images.dtype is self.dtype and (
            residual is None or residual.shape == self.shape.outputs_of(images)
        )
        if not (suits and self.kernel.takes(images, self.shape, prepared=True)):
            outputs = self._by_torch(images, residual)
            return (outputs, images) if self.around.passes else outputs
        if not self._is_prepared:
            transform = partial(self.kernel.transform, self.weight, shape=self.shape)
            transform(to=self.factors)
            transform(to=self.adjoint_factors, adjoint=True)
            self._is_prepared = True
        found: tuple[Tensor, Tensor] = _Convolution.apply(
            images, residual, self
        )  # type: ignore[no-untyped-call]
        return found if self.around.passes else found[0]

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
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        if residual is not None:
            residual = _laid_out(residual)
        images = _laid_out(images)
        fusion = Fusion(
            scale_in=layer.scale,
            shift_in=layer.shift,
            bias=layer.bias,
            residual=residual,
            rectified=layer.around.rectified,
        )
        outputs = layer.kernel.convolve(images, layer.factors, layer.shape, fusion)
        ctx.layer, ctx.size, ctx.affine = (
            layer,
            images.shape,
            (layer.scale, layer.shift),
        )
        ctx.save_for_backward(
            images if layer.scale is not None else None,
            outputs if layer.around.rectified else None,
        )
        return outputs, images if layer.around.passes else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layer: FusedConv2d = ctx.layer
        gradient, passed = (
            each if each is None else _laid_out(each) for each in gradients
        )
        if gradient is None:
            return passed, None, None
        gate, mask = ctx.saved_tensors
        scale, shift = ctx.affine
        if mask is not None and ctx.needs_input_grad[1]:
            gradient, mask = torch.ops.aten.threshold_backward(gradient, mask, 0), None
        of_images = None
        if ctx.needs_input_grad[0]:
            fusion = Fusion(
                mask=mask, gate=gate, scale_out=scale, shift_out=shift, residual=passed
            )
            of_images = layer.kernel.adjoint(
                gradient, layer.adjoint_factors, layer.shape, ctx.size, fusion
            )
        return of_images, gradient if ctx.needs_input_grad[1] else None, None


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


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
    uses = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    found = {target: Around() for target in convolutions}
    once = {target for target in found if uses[target] == 1}
    if norms:
        free = {name for name, count in uses.items() if count == 1}
        _take_norms(graph, layers, found, once, free - set(folded.values()))
    for node in list(graph.nodes):
        target = str(node.target)
        if node.op != "call_module" or target not in once:
            continue
        last = _take_sum(graph, node, _only_user(node) if target in folded else node)
        rectifier = _only_user(last)
        if rectifier is not None and _is_relu(rectifier, layers):
            found[target].rectified = True
            rectifier.replace_all_uses_with(last)
            graph.erase_node(rectifier)
    _pass_images(graph, found, once)
    return found


def _take_norms(
    graph: fx.Graph,
    layers: Mapping[str, nn.Module],
    found: Mapping[str, Around],
    once: set[str],
    free: set[str],
) -> None:
    """Let convolutions take over norms whose rectified output they alone take."""
    for rectifier in list(graph.nodes):
        if not _is_relu(rectifier, layers):
            continue
        norm = rectifier.args[0]
        takers = list(rectifier.users)
        if not (
            isinstance(norm, fx.Node)
            and len(norm.users) == 1
            and norm.op == "call_module"
            and str(norm.target) in free
            and _is_affine(layers[str(norm.target)])
            and all(each.op == "call_module" for each in takers)
            and all(str(each.target) in once for each in takers)
        ):
            continue
        for taker in takers:
            found[str(taker.target)].norm = str(norm.target)
        rectifier.replace_all_uses_with(norm.all_input_nodes[0])
        graph.erase_node(rectifier)
        graph.erase_node(norm)


def _is_affine(layer: nn.Module) -> bool:
    """Whether it is a batch norm that scales and shifts by running statistics."""
    if not isinstance(layer, _BatchNorm) or layer.running_var is None:
        return False
    return not (layer._forward_hooks or layer._forward_pre_hooks)


def _pass_images(graph: fx.Graph, found: Mapping[str, Around], once: set[str]) -> None:
    """Let the second of two that take the same images take them from the first."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for images in list(graph.nodes):
        takers = sorted(images.users, key=order.__getitem__)
        first = takers[0] if len(takers) == 2 else None
        if first is None or first.op != "call_module":
            continue
        target = str(first.target)
        if target not in once or images in first.args[1:] or found[target].passes:
            continue
        found[target].passes = True
        with graph.inserting_after(first):
            passed = graph.call_function(operator.getitem, (first, 1))
            outputs = graph.call_function(operator.getitem, (first, 0))
        takers[1].replace_input_with(images, passed)
        first.replace_all_uses_with(
            outputs, delete_user_cb=lambda user: user not in (outputs, passed)
        )
        order[passed] = order[outputs] = order[first]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


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

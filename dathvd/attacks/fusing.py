"""Which convolutions of a network's graph take over what stands around them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dathvd.attacks.fused import Around


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

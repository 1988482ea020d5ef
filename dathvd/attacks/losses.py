"""The losses that attacks maximise: one value for each sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12
"""Keeps equal logits from dividing by 0."""

AttackLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(logits ``[batch, classes]``, labels ``[batch]``, what else the loss needs of each
image, such as its clean logits) to ``[batch]``."""


def cross_entropy(logits: Tensor, labels: Tensor, clean: Tensor | None) -> Tensor:
    """-log softmax(logits) at the label, or its mean over the shares of labels."""
    return F.cross_entropy(logits, labels, reduction="none")


def classes_of(labels: Tensor) -> Tensor:
    """The classes, int64 ``[batch]``, of labels that may be shares ``[batch, classes]``
    of several."""
    return labels.argmax(dim=1) if labels.is_floating_point() else labels


def margin(logits: Tensor, labels: Tensor, clean: Tensor | None) -> Tensor:
    """The best wrong logit less the label's: above 0 where the model is wrong.

    Carlini and Wagner (Towards Evaluating the Robustness of Neural Networks, S&P 2017),
    f_6 without its floor.
    """
    own = labels[:, None]
    right = logits.gather(1, own).squeeze(1)
    return logits.scatter(1, own, -torch.inf).amax(dim=1) - right


def kl_divergence(logits: Tensor, labels: Tensor, clean: Tensor | None) -> Tensor:
    """KL(p(clean) || p(attacked)), the inner loss of TRADES (Zhang et al., ICML 2019).

    Args:
        clean: the logits of the clean images, taken as constant.
    """
    assert clean is not None
    return F.kl_div(
        logits.log_softmax(dim=1),
        clean.detach().log_softmax(dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)


def squared(logits: Tensor, labels: Tensor, clean: Tensor | None) -> Tensor:
    """|p(attacked) - p(clean)|², the inner loss of SCORE (Pang et al., ICML 2022).

    Args:
        clean: the logits of the clean images, taken as constant.
    """
    assert clean is not None
    change = logits.softmax(dim=1) - clean.detach().softmax(dim=1)
    return change.square().sum(dim=1)


def dlr_to_target(logits: Tensor, labels: Tensor, aims: Tensor | None) -> Tensor:
    """The targeted difference of logits ratio (Croce and Hein, ICML 2020, equation 7).

    It depends neither on a shift of the logits nor on their scale.

    Args:
        aims: int64 ``[batch]``, the wrong classes to reach.
    """
    assert aims is not None
    ranked = logits.topk(4, dim=1).values
    ahead = logits.gather(1, aims[:, None]) - logits.gather(1, labels[:, None])
    spread = ranked[:, 0] - 0.5 * (ranked[:, 2] + ranked[:, 3])
    return ahead.squeeze(1) / (spread + _TINY)


LOSSES: dict[str, AttackLoss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "kl": kl_divergence,
    "squared": squared,
}
FROM_CLEAN = frozenset({kl_divergence, squared})
"""Losses that are measured from the clean logits."""

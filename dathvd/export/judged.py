"""What is known of a network's accuracy: from files that evaluations left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dathvd.attacks import describe_attack
from dathvd.errors import UserError
from dathvd.export.form import Trained
from dathvd.files import explain_os_errors
from dathvd.hashing import parameters_sha256


@dataclass(frozen=True)
class Judged:
    """Accuracies in [0, 1] on the whole test set; None where they are not known."""

    clean: float | None = None
    reported: float | None = None
    """Robust accuracy at the end of training, in the ball of training."""
    autoattack: float | None = None
    """Under standard AutoAttack, in the ball of training."""


def find_judged(
    trained: Trained, num_test: int, evaluations: Sequence[Path] = ()
) -> Judged:
    """What the run folder and other files say of exactly these weights.

    Args:
        trained: the network; files about other weights are passed over.
        num_test: images of the test set: less than all of them do not count.
        evaluations: further files of ``dathvd evaluate --json``, or its output folders.

    Raises:
        UserError: one of ``evaluations`` cannot be read.
    """
    digest = parameters_sha256(trained.model)
    clean = reported = autoattack = None
    for result in _results(trained.run, evaluations):
        for prefix in ("", "ema_", "best_", "best_ema_"):
            if result.get(f"{prefix}parameters_sha256") != digest:
                continue
            if result.get("num_samples") != num_test:
                continue
            clean = _share(result.get(f"{prefix}clean_accuracy"), clean)
            if "cells" not in result and _in_the_ball_of_training(result, trained):
                reported = _share(result.get(f"{prefix}robust_accuracy"), reported)
        if result.get("parameters_sha256") == digest:
            autoattack = _share(
                _under_autoattack(result, trained, num_test), autoattack
            )
    return Judged(clean, reported, autoattack)


def _in_the_ball_of_training(result: dict[str, Any], trained: Trained) -> bool:
    """Whether the end of training judged within training's own ball."""
    attack, judge = trained.config.attack, trained.config.evaluation.attack
    named = result.get("attack", describe_attack(judge))
    return judge.threat == attack.threat and named == describe_attack(judge)


def _under_autoattack(
    result: dict[str, Any], trained: Trained, num_test: int
) -> float | None:
    """The accuracy under AutoAttack alone, on every image."""
    cells = result.get("cells")
    if not isinstance(cells, list) or result.get("num_samples") != num_test:
        return None
    if result.get("only_survivors") and len(cells) > 1:
        return None  # it saw what other attacks had left
    ball = trained.config.attack.norm, trained.config.attack.epsilon
    for cell in cells:
        if not isinstance(cell, dict) or cell.get("attack") != "autoattack":
            continue
        if (cell.get("norm"), cell.get("epsilon")) == ball:
            return _share(cell.get("robust_accuracy"), None)
    return None


def _share(value: Any, otherwise: float | None) -> float | None:
    return float(value) if isinstance(value, (int, float)) else otherwise


def _results(run: Path, evaluations: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in [*sorted(run.glob("*.json")), *sorted(run.glob("*/result.json"))]:
        found = _parse(path)
        if found is not None:
            yield found
    for path in evaluations:
        file = path / "result.json" if path.is_dir() else path
        with explain_os_errors("read", file):
            file.open("rb").close()
        named = _parse(file)
        if named is None or "cells" not in named:
            raise UserError(f"--evaluation {path}: not a result of dathvd evaluate")
        yield named


def _parse(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

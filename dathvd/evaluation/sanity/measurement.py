"""``dathvd sanity``: measure what the checks compare, and report it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dathvd.attacks import PGD
from dathvd.attacks.balls import BALLS
from dathvd.attacks.probes import Probe, right_on_clean, survives
from dathvd.config import Config, ModelConfig
from dathvd.config.evaluation import REACH
from dathvd.data import Dataset
from dathvd.distributed import broadcast_parameters
from dathvd.errors import UserError
from dathvd.evaluation.grid import Grid
from dathvd.evaluation.identity import identify
from dathvd.evaluation.judge import CLEAN, Judge
from dathvd.evaluation.preconditions import check_outputs, is_cut_off, no_classifier
from dathvd.evaluation.requests import (
    Request,
    check_files,
    progress_bar,
    restore,
    with_request,
)
from dathvd.evaluation.sanity.checks import Check, Findings, Plan, run_checks, share
from dathvd.evaluation.sanity.surrogate import train_surrogate
from dathvd.evaluation.sanity.transfer import (
    FlatGradient,
    TransferAttack,
    has_gradient,
)
from dathvd.evaluation.store import Store
from dathvd.files import make_folder, write_json
from dathvd.hashing import parameters_sha256
from dathvd.report.sanity import plot_sanity, print_sanity
from dathvd.runtime import Runtime, together
from dathvd.tasks import load_judged, load_task

DEFAULT_SAMPLES = 1000
_SURROGATE_STEPS = 5
_TRANSFER_MOMENTUM = 1.0  # transfers better (Dong et al., CVPR 2018)


@dataclass(frozen=True)
class SanityRequest:
    """What the report is made of; None keeps the run's own."""

    epsilon: float | None = None
    num_steps: int | None = None
    norm: str | None = None
    surrogate: str | None = None
    """Another run for the transfer attack; None trains a network for it."""
    surrogate_steps: int = 300
    autoattack: bool = False
    """Compare PGD with AutoAttack, too."""
    evaluation: Request = Request()
    """Samples, batch size, seed, weights, and where the report is written."""


def check_sanity(run: str, request: SanityRequest, runtime: Runtime) -> bool:
    """Report on a trained run; every rank calls it, rank 0 prints and writes.

    Returns:
        Whether no check failed.

    Raises:
        UserError: no usable checkpoint, a setting that is not valid, or a network that
            reads no image right.
    """
    check_files(request.evaluation, runtime)
    model, config = restore(run, runtime, request.evaluation)
    config = together(runtime, lambda: with_request(config, request.evaluation))
    dataset = together(runtime, lambda: _data(config, run, request))
    model = model.to(runtime.device)
    together(runtime, lambda: check_outputs(model, dataset, runtime.device))
    plan = together(runtime, lambda: _plan(config, dataset, request))
    kind = config
    if is_cut_off(model, dataset, runtime.device):  # as its kind would be
        kind = config.model_copy(update={"model": ModelConfig()})
    surrogate = _surrogate(kind, dataset, plan, request, runtime)
    findings = gather_findings(
        model, surrogate, plan, dataset, config, request.evaluation, runtime
    )
    if not findings.clean.any():
        raise UserError(
            f"run {run}: reads none of {len(findings.clean)} images right: there is no "
            "robust accuracy to check"
        )
    checks = run_checks(findings)
    if runtime.is_root:
        result = {
            **describe(findings, checks),
            "num_workers": runtime.size,
            "parameters_sha256": parameters_sha256(model),
        }
        _report(result, run, request.evaluation)
    return all(check.passed is not False for check in checks)


def _data(config: Config, run: str, request: SanityRequest) -> Dataset:
    """The data set, whose training images only a surrogate of our own needs.

    Raises:
        UserError: files are not usable, or the run's network knows no classes.
    """
    if config.objective.is_self_supervised:
        raise no_classifier(run, config)
    return load_task(config) if request.surrogate is None else load_judged(config)


def _plan(config: Config, dataset: Dataset, request: SanityRequest) -> Plan:
    """The cells around the run's attack, or around what the request names."""
    grid = Grid(
        ("pgd",),
        () if request.epsilon is None else (request.epsilon,),
        () if request.num_steps is None else (request.num_steps,),
        norm=request.norm,
    )
    settings = grid.cells(config.evaluation.attack)[0].settings
    if settings.balls:
        raise UserError(
            "sanity: the run's attack is on a union of balls; name one of them by "
            "--norm and --epsilon"
        )
    if settings.epsilon == 0:
        raise UserError(
            "sanity: epsilon is 0, there is nothing to check; set --epsilon"
        )
    return Plan.make(settings, dataset.image_shape, autoattack=request.autoattack)


def _surrogate(
    config: Config,
    dataset: Dataset,
    plan: Plan,
    request: SanityRequest,
    runtime: Runtime,
) -> nn.Module:
    """The named run's network, or one that rank 0 trains for all, under attack.

    The examples of a natural network do not transfer to a robust one, nor to one that
    hides its gradients behind robust weights.
    """
    if request.surrogate is not None:
        trusted = Request(trust=request.evaluation.trust)
        surrogate, _ = restore(request.surrogate, runtime, trusted)
        surrogate = surrogate.to(runtime.device)
        together(runtime, lambda: check_outputs(surrogate, dataset, runtime.device))
        return surrogate
    steps = request.surrogate_steps if runtime.is_root else 0
    if runtime.is_root:
        print(f"training a robust surrogate for {steps} steps", flush=True)
    surrogate = train_surrogate(
        config,
        dataset,
        num_steps=steps,
        device=runtime.device,
        attack=surrogate_attack(plan),
    )
    broadcast_parameters(surrogate)
    return surrogate


def surrogate_attack(plan: Plan) -> PGD:
    """What a surrogate is trained under: a short PGD in the ball of the plan."""
    settings = plan.own.settings
    return PGD(
        BALLS[settings.norm](settings.epsilon),
        step_size=REACH * settings.epsilon / _SURROGATE_STEPS,
        num_steps=_SURROGATE_STEPS,
    )


def gather_findings(
    model: nn.Module,
    surrogate: nn.Module,
    plan: Plan,
    dataset: Dataset,
    config: Config,
    request: Request,
    runtime: Runtime,
) -> Findings:
    """Judge the test set under all that the checks compare; every rank calls it."""
    num_classes = len(dataset.classes)
    settings = plan.own.settings
    transfer = TransferAttack(
        surrogate,
        PGD(
            BALLS[settings.norm](settings.epsilon),
            step_size=settings.step_size,
            num_steps=settings.num_steps,
            momentum=_TRANSFER_MOMENTUM,
        ),
    )

    def right_of_surrogate(*arguments: Any) -> torch.Tensor:
        return right_on_clean(surrogate, *arguments[1:])

    # the store tells apart what other surrogates and other attacks have judged
    surrogate_key = f"surrogate-{parameters_sha256(surrogate)[:16]}"
    transfer_key = f"transfer-{surrogate_key}-{plan.own.key}"
    probes: dict[str, Probe] = {
        CLEAN: right_on_clean,
        "gradient": has_gradient,
        surrogate_key: right_of_surrogate,
        transfer_key: survives(transfer),
    }
    for cell in plan.cells():
        probes[cell.key] = survives(cell.build(num_classes))
    store = None
    if request.output is not None:
        store = Store(request.output, identify(model, dataset.test, config))
    if is_cut_off(model, dataset, runtime.device):
        model = FlatGradient(model)
    with progress_bar("sanity", runtime) as on_part:
        flags = Judge(
            dataset.test,
            runtime,
            batch_size=config.evaluation.batch_size,
            seed=config.seed,
            max_samples=config.evaluation.max_samples or DEFAULT_SAMPLES,
            store=store,
            on_part=on_part,
        )(model, probes)
    right = dict(zip(probes, flags, strict=True))
    clean = right[CLEAN]
    return Findings(
        plan=plan,
        clean=clean,
        held={cell.key: right[cell.key] & clean for cell in plan.cells()},
        transfer=right[transfer_key] & clean,
        surrogate=right[surrogate_key],
        gradient=right["gradient"],
    )


def describe(found: Findings, checks: list[Check]) -> dict[str, Any]:
    """The report as JSON values."""
    plan = found.plan
    attacks = {
        "clean": share(found.clean),
        "noise": found.accuracy(plan.noise),
        "transfer": share(found.transfer),
        "fgsm": found.accuracy(plan.one_step),
        "pgd": found.accuracy(plan.own),
        "pgd, 5 restarts": found.accuracy(plan.restarts),
        "pgd-margin": found.accuracy(plan.margin),
    }
    if plan.ensemble is not None:
        attacks["autoattack"] = found.accuracy(plan.ensemble)
    return {
        "flagged": sum(check.passed is False for check in checks),
        "num_samples": len(found.clean),
        "norm": plan.own.settings.norm,
        "epsilon": plan.own.settings.epsilon,
        "num_steps": plan.own.settings.num_steps,
        "checks": [
            {"name": check.name, "passed": check.passed, "reason": check.reason}
            for check in checks
        ],
        "accuracy": attacks,
        "over_epsilon": [
            {"epsilon": cell.settings.epsilon, "robust_accuracy": found.accuracy(cell)}
            for cell in plan.radii
        ],
        "over_steps": [
            {
                "num_steps": cell.settings.num_steps,
                "robust_accuracy": found.accuracy(cell),
            }
            for cell in plan.steps
        ],
    }


def _report(result: dict[str, Any], run: str, request: Request) -> None:
    print_sanity(result, title=run)
    if request.json_file is not None:
        write_json(request.json_file, result)
    if request.output is not None:
        folder: Path = request.output
        make_folder(folder)
        write_json(folder / "sanity.json", result)
        plot_sanity(result, folder / "sanity.png")

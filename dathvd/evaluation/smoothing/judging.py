"""``dathvd certify``: certificates of test images, shared by workers and resumable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dathvd import heartbeat
from dathvd.attacks.network import in_mode
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.devices import set_up_device
from dathvd.errors import UserError
from dathvd.evaluation.identity import identify
from dathvd.evaluation.preconditions import check_outputs, judged_data
from dathvd.evaluation.requests import (
    Request,
    check_files,
    judged_checkpoint,
    progress_bar,
    restore,
    with_request,
)
from dathvd.evaluation.smoothing.certificate import (
    ABSTAIN,
    Certificate,
    Smoothing,
    certify,
)
from dathvd.evaluation.store import Store
from dathvd.files import explain_os_errors, make_folder, write_json
from dathvd.hashing import parameters_sha256
from dathvd.noise import mix_seed
from dathvd.report.smoothing import print_certificates
from dathvd.runtime import Runtime, from_root, sum_over_workers, together

_CERTIFY = 0xCE
RADII = tuple(0.25 * step for step in range(9))
"""At which certified accuracy is reported, in pixel units."""


@dataclass(frozen=True)
class CertifyRequest:
    """What is certified, and how surely."""

    smoothing: Smoothing
    every: int = 1
    """Each so-many-th test image is taken."""
    evaluation: Request = Request()
    """Samples, seed, weights, and where results are written."""


def certify_run(run: str, request: CertifyRequest, runtime: Runtime) -> None:
    """Certify a trained run; every rank calls it, rank 0 prints and writes.

    Raises:
        UserError: no usable checkpoint, or an output folder of other certificates.
    """
    asked = request.evaluation
    check_files(asked, runtime)
    model, config = restore(run, runtime, asked)
    config = together(runtime, lambda: with_request(config, asked))
    request = together(runtime, lambda: _with_sigma(request, config))
    dataset = together(runtime, lambda: judged_data(config, run))
    set_up_device(runtime.device, config.train)
    model = model.to(runtime.device)
    together(runtime, lambda: check_outputs(model, dataset, runtime.device))
    places = torch.arange(0, len(dataset.test), request.every)
    places = places[: config.evaluation.max_samples or len(places)]
    predicted, radii = certify_images(model, dataset, places, config, request, runtime)
    if not runtime.is_root:
        return
    result = {
        **describe(predicted, radii, dataset.test.labels[places]),
        **asdict(request.smoothing),
        "seed": config.seed,
        "weights": asked.weights,
        "checkpoint": judged_checkpoint(run, asked),
        "num_workers": runtime.size,
        "parameters_sha256": parameters_sha256(model),
    }
    print_certificates(result, title=run)
    if asked.json_file is not None:
        write_json(asked.json_file, result)
    if asked.output is not None:
        write_json(asked.output / "result.json", result)


def _with_sigma(request: CertifyRequest, config: Config) -> CertifyRequest:
    """The request, with the noise of training where it names none.

    Raises:
        UserError: neither has any.
    """
    sigma = request.smoothing.sigma or config.data.noise
    if not sigma:
        raise UserError(
            "certify: the run was trained without noise (data.noise): set --sigma"
        )
    return replace(request, smoothing=replace(request.smoothing, sigma=sigma))


def certify_images(
    model: nn.Module,
    dataset: Dataset,
    places: Tensor,
    config: Config,
    request: CertifyRequest,
    runtime: Runtime,
) -> tuple[Tensor, Tensor]:
    """Classes int64 and radii float64 ``[num_samples]``, the same on every worker.

    Each image is one worker's; its draws belong to it, so that the result is the same
    for any number of workers.
    """
    output = request.evaluation.output
    identity = {
        **identify(model, dataset.test, config),
        "smoothing": asdict(request.smoothing),
    }
    known: dict[int, Certificate] = {}
    if output is not None:
        known = _known(Store(output, identity), output, runtime)
    todo = [place for place in places.tolist() if place not in known]
    mine = todo[runtime.rank :: runtime.size]
    found = dict(known) if runtime.is_root else {}
    with progress_bar("certify", runtime) as on_part, in_mode(model, False):
        for done, place in enumerate(mine, 1):
            heartbeat.beat(heartbeat.EVALUATING)
            image = dataset.test.batch(torch.tensor([place]))[0].to(runtime.device)
            seed = mix_seed(config.seed, _CERTIFY, place)
            one = certify(model, image.float() / 255, seed, request.smoothing)
            found[place] = one
            if output is not None:
                make_folder(output / "samples")
                write_json(output / "samples" / f"{place:08d}.json", asdict(one))
            on_part(done, len(mine))
    heartbeat.rest()  # others may have more to do
    values = torch.zeros(2, len(places), dtype=torch.float64)
    for column, place in enumerate(places.tolist()):
        if place in found:
            values[:, column] = torch.tensor(
                [found[place].predicted, found[place].radius], dtype=torch.float64
            )
    total = sum_over_workers(runtime, values, "certificates")
    return total[0].round().long(), total[1]


def _known(store: Store, folder: Path, runtime: Runtime) -> dict[int, Certificate]:
    """What the folder holds, equal on all workers; it is made if need be."""

    def read() -> list[list[Any]]:
        if not runtime.is_root:
            return []
        store.open()
        with explain_os_errors("read", folder):
            files = sorted((folder / "samples").glob("[0-9]*.json"))
            return [[int(file.stem), *_parse(file)] for file in files]

    found = from_root(runtime, together(runtime, read))
    return {place: Certificate(*values) for place, *values in found}


def _parse(file: Path) -> tuple[int, float]:
    try:
        value = json.loads(file.read_text())
        return int(value["predicted"]), float(value["radius"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not a certificate; remove it") from None


def describe(predicted: Tensor, radii: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracies as JSON values.

    ``average_radius`` counts wrong and unsure predictions as 0 (Zhai et al., MACER,
    ICLR 2020).
    """
    right = predicted == labels
    certified = radii.where(right, -1.0)
    return {
        "num_samples": len(labels),
        "accuracy": float(right.double().mean()),
        "abstained": float((predicted == ABSTAIN).double().mean()),
        "average_radius": float(radii.where(right, 0.0).mean()),
        "certified_accuracy": {
            f"{radius:g}": float((certified >= radius).double().mean())
            for radius in RADII
        },
    }

"""The form of RobustBench (Croce et al., NeurIPS 2021, arXiv:2010.09670).

NAME.pt                                  weights, for torch.load(weights_only=True)
loader.py                                load_model() for images in [0, 1]
model_info/DATA/THREAT/NAME.json         as in RobustBench's own folder
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from dathvd.data import ImageSet
from dathvd.errors import UserError
from dathvd.export.form import Form, Function, Trained, function_of
from dathvd.export.judged import Judged, find_judged
from dathvd.files import make_folder, write_bytes, write_json, write_text
from dathvd.tasks import load_judged

_THREATS = {"linf": "Linf", "l2": "L2"}
_LOADER = '''\
"""{title}: a network that dathvd trained.

    from loader import load_model

    model = load_model()  # images [batch, {shape}] float32 in [0, 1] to logits
"""

from pathlib import Path

import torch

from dathvd.config import ModelConfig
from dathvd.models import build_model, finish_model

MODEL = {model!r}
IMAGE_SHAPE = {image_shape!r}
NUM_CLASSES = {num_classes!r}
WEIGHTS = Path(__file__).with_name({weights!r})


def load_model(network=None):
    """The network in eval mode; ``network`` stands for one outside of dathvd."""
    config = ModelConfig.model_validate(MODEL)
    if network is None:
        model = build_model(config, IMAGE_SHAPE, NUM_CLASSES)
    else:
        model = finish_model(network, config, IMAGE_SHAPE)
    state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return model.eval()
'''


class RobustBench(Form):
    """A folder with weights, their loader and what is claimed of them.

    Args:
        evaluations: files of ``dathvd evaluate`` beside those in the run folder.
    """

    file_name: ClassVar[str] = "robustbench"

    def __init__(self, evaluations: Sequence[Path] = ()) -> None:
        self._evaluations = evaluations

    def write(self, trained: Trained, place: Path) -> list[str]:
        if not trained.config.objective.has_classes:
            raise UserError(
                f"--to robustbench: {trained.run} was pre-trained by "
                f"{trained.config.objective.name} and knows no classes"
            )
        name = safe_name(trained.run.name)
        test = _test_images(trained)
        judged = Judged()
        if test is not None:
            judged = find_judged(trained, len(test), self._evaluations)
        make_folder(place)
        data = io.BytesIO()
        torch.save(trained.model.state_dict(), data)
        write_bytes(place / f"{name}.pt", data.getvalue())
        write_text(place / "loader.py", loader(trained, name))
        info = model_info(trained, judged)
        threat = _threat(trained)
        folder = place / "model_info" / safe_name(trained.config.data.name) / threat
        make_folder(folder)
        write_json(folder / f"{name}.json", info)
        return _remarks(info, known=test is not None)

    def read(self, place: Path, trained: Trained) -> Function:
        # the loader that this very process has just written
        spec = importlib.util.spec_from_file_location("loader", place / "loader.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return function_of(module.load_model())


def _threat(trained: Trained) -> str:
    """RobustBench's name of the ball.

    Raises:
        UserError: it has none.
    """
    attack = trained.config.attack
    if attack.balls or attack.norm not in _THREATS:
        kind = "a union of balls" if attack.balls else attack.norm
        raise UserError(
            f"--to robustbench: its threat models are {', '.join(_THREATS.values())}, "
            f"and {trained.run} was trained in {kind}"
        )
    return _THREATS[attack.norm]


def safe_name(text: str) -> str:
    """The text as the name of one file."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "network"


def loader(trained: Trained, name: str) -> str:
    """The source of ``loader.py``: values of the checkpoint are in it as literals."""
    model = trained.config.model.model_dump(mode="json")
    # where training began is no part of the network
    model = {key: each for key, each in model.items() if not key.startswith("init")}
    return _LOADER.format(
        title=name,
        shape=", ".join(map(str, trained.image_shape)),
        model=model,
        image_shape=trained.image_shape,
        num_classes=trained.num_classes,
        weights=f"{name}.pt",
    )


def model_info(trained: Trained, judged: Judged) -> dict[str, Any]:
    """RobustBench's entry; an accuracy that is not known on all images is left out."""
    config = trained.config
    info: dict[str, Any] = {
        "link": None,
        "name": None,
        "authors": None,
        "additional_data": _has_additional_data(trained),
        "number_forward_passes": 1,
        "dataset": config.data.name,
        "venue": None,
        "architecture": config.model.name,
        "eps": radius(config.attack.epsilon),
    }
    for key, value in (
        ("clean_acc", judged.clean),
        ("reported", judged.reported),
        ("autoattack_acc", judged.autoattack),
    ):
        if value is not None:
            info[key] = f"{100 * value:.2f}"
    return info


def _has_additional_data(trained: Trained) -> bool | None:
    """Whether more than the data set was trained on; None where that is not known."""
    if trained.config.data.extra is not None:
        return True
    return False if trained.config.model.init is None else None


def radius(epsilon: float) -> str:
    """The radius as RobustBench has it: ``8/255`` where it is so many grey levels."""
    levels = round(epsilon * 255)
    if levels and abs(levels - epsilon * 255) < 1e-6:
        return f"{levels}/255"
    return f"{epsilon:.6g}"


def _test_images(trained: Trained) -> ImageSet | None:
    """The test set, None where it is not here."""
    try:
        return load_judged(trained.config).test
    except UserError:
        return None


def _remarks(info: dict[str, Any], *, known: bool) -> list[str]:
    lines = ["fill in link, name, authors and venue in model_info"]
    if info["additional_data"] is None:
        lines.append(
            "fill in additional_data, too: training began with weights of model.init"
        )
    if not known:
        lines.append("the test set is not here: no accuracy is claimed")
    elif "autoattack_acc" not in info:
        lines.append(
            "no autoattack_acc: that takes dathvd evaluate RUN --attack autoattack "
            "--output FOLDER on all images, and --evaluation FOLDER here"
        )
    return lines

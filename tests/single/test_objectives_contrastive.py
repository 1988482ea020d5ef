"""InfoNCE written out, its views, and the network that its attack sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.config import (
    AttackConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    load_config,
)
from dathvd.data import Dataset, load_dataset
from dathvd.data.views import jittered, turned
from dathvd.errors import UserError
from dathvd.models import build_model
from dathvd.noise import SampleNoise
from dathvd.objectives import Objective, build_objective
from dathvd.tasks import task_of

TEMPERATURE = 0.4
CONTRASTIVE = ObjectiveConfig(name="contrastive", temperature=TEMPERATURE)
PARTNERS = torch.tensor([1, 0, 3, 2, 5, 4])


class Flatten(nn.Module):
    """Images as their own embeddings."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def embeddings(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(6, 1, 2, 2, dtype=torch.float64, generator=generator)


def written_out(images: Tensor, temperature: float) -> list[float]:
    """NT-Xent, eq. 1 of the SimCLR paper, pair by pair."""
    rows = [row.flatten().tolist() for row in images]

    def similarity(a: list[float], b: list[float]) -> float:
        product = sum(x * y for x, y in zip(a, b))
        lengths = math.hypot(*a) * math.hypot(*b)
        return math.exp(product / lengths / temperature)

    losses = []
    for i, partner in enumerate(PARTNERS.tolist()):
        others = [similarity(rows[i], rows[k]) for k in range(6) if k != i]
        losses.append(-math.log(similarity(rows[i], rows[partner]) / sum(others)))
    return losses


def objective(clean_weight: float = 1.0) -> Objective:
    return build_objective(
        CONTRASTIVE.model_copy(update={"clean_weight": clean_weight})
    )


def test_the_loss_is_nt_xent_of_clean_and_attacked_views() -> None:
    clean, attacked = embeddings(), embeddings(1)
    terms = objective(clean_weight=0.7)(Flatten(), clean, attacked, PARTNERS)
    expected = [
        0.7 * left + right
        for left, right in zip(
            written_out(clean, TEMPERATURE), written_out(attacked, TEMPERATURE)
        )
    ]
    assert float(terms.loss) == pytest.approx(sum(expected) / 6, rel=1e-12)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    weighted = objective(0.7)(Flatten(), clean, attacked, PARTNERS, weights)
    mean = sum(w * loss for w, loss in zip(weights.tolist(), expected)) / 6
    assert float(weighted.loss) == pytest.approx(mean, rel=1e-12)


def test_equal_embeddings_cost_the_logarithm_of_the_others() -> None:
    images = torch.ones(6, 1, 2, 2)
    terms = objective(clean_weight=0.0)(Flatten(), images, images, PARTNERS)
    assert float(terms.loss) == pytest.approx(math.log(5))
    assert terms.clean_logits is None


def test_rows_of_other_workers_are_negatives() -> None:
    own, others = embeddings(), embeddings(1)
    rows = nn.functional.normalize(others.flatten(1))
    gathering = build_objective(CONTRASTIVE, lambda mine: torch.cat([mine, rows]))
    terms = gathering(Flatten(), own, own, PARTNERS)
    both = torch.cat([own, others])
    whole = objective()(Flatten(), both, both, torch.cat([PARTNERS, PARTNERS + 6]))
    assert terms.adversarial_logits is not None
    assert whole.adversarial_logits is not None
    torch.testing.assert_close(terms.adversarial_logits, whole.adversarial_logits[:6])


def test_the_attack_raises_the_loss_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(name="small_resnet", width=4, head="projection"),
        image_shape=(3, 8, 8),
        num_classes=16,
    )
    images = torch.rand(6, 3, 8, 8)
    contrastive = objective(clean_weight=0.0)
    attack = build_attack(AttackConfig(epsilon=0.1, step_size=0.03, num_steps=5))
    noise = SampleNoise(0, torch.arange(3)).repeat(2)
    seen = contrastive.attacked(model)
    attacked = attack(seen, images, PARTNERS, noise)
    assert float((attacked - images).abs().max()) <= 0.1 + 1e-6
    model.eval()
    with torch.no_grad():
        before, after = (
            float(contrastive(model, images, views, PARTNERS).loss)
            for views in (images, attacked)
        )
    assert after > before + 0.01
    wrapped = build_objective(CONTRASTIVE.model_copy(update={"weight_perturbation": 1}))
    assert isinstance(wrapped.attacked(model), type(seen))


def test_quarter_turns_and_their_labels() -> None:
    dataset = load_dataset(
        DataConfig(name="synthetic", image_size=4, num_test=3, num_train=5)
    )
    task = task_of(ObjectiveConfig(name="rotation"))
    seen = task.dataset(dataset)
    assert len(seen.classes) == 4 and len(seen.test) == 12
    images = dataset.test.batch(torch.tensor([2]))
    views = seen.test.batch(torch.tensor([8, 9, 10, 11, 2]))
    assert torch.equal(views[:4], turned(images))
    assert torch.equal(views[1], images[0].rot90(1, (1, 2)))
    assert seen.test.labels[[8, 9, 10, 11, 2]].tolist() == [0, 1, 2, 3, 2]
    _, makes = task.views(DataConfig())
    assert makes is not None and makes.labels(2).tolist() == [0, 1, 2, 3] * 2
    wide = Dataset(dataset.train, dataset.test, dataset.classes, (3, 4, 5))
    with pytest.raises(UserError, match="square images, these are 5x4"):
        task.dataset(wide)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 6, 9)])
def test_two_views_of_an_image_differ_and_belong_to_the_sample(
    shape: tuple[int, ...],
) -> None:
    augment, views = task_of(CONTRASTIVE).views(DataConfig(augment=True))
    assert augment is None and views is not None
    images = torch.rand(4, *shape)
    whole = views.make(images, SampleNoise(3, torch.arange(4)))
    assert whole.shape == (8, *shape) and views.labels(3).equal(PARTNERS)
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1
    assert all(not torch.equal(whole[2 * i], whole[2 * i + 1]) for i in range(4))
    alone = views.make(images[2:3], SampleNoise(3, torch.tensor([2])))
    torch.testing.assert_close(alone, whole[4:6])


def test_colours_change_by_as_much_as_is_asked() -> None:
    images, noise = torch.rand(64, 3, 4, 4), SampleNoise(0, torch.arange(64))
    torch.testing.assert_close(jittered(images, noise, strength=0.0, grey=0.0), images)
    grey = jittered(images, noise, strength=0.0, grey=1.0)
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    for channel in grey.unbind(1):
        torch.testing.assert_close(channel, luma)
    some = jittered(images, noise, strength=0.0, grey=0.25)
    plain = (some[:, 0] - some[:, 1]).abs().flatten(1).amax(1) < 1e-6
    assert 0.1 < float(plain.float().mean()) < 0.45


def test_what_does_not_go_with_contrastive_is_refused() -> None:
    for field in ("attack.loss=kl", "attack.target=random"):
        with pytest.raises(UserError, match="contrastive has no classes"):
            load_config(None, ["objective.name=contrastive", field])
    with pytest.raises(UserError, match="set label_smoothing to 0"):
        smooth = "objective.label_smoothing=0.1"
        load_config(None, ["objective.name=contrastive", smooth])

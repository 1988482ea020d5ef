"""All that a configuration can name, and where it is: one line for each component.

To add one: write its file, and its line here. Nothing is imported before it is used.
A component is called with what its parameters name, see ``dathvd.registry``.
"""

from __future__ import annotations

from typing import Any

from dathvd.registry import Places, Registry

ATTACKS: Registry[Any] = Registry(
    "attack",
    "dathvd.attacks.attack:Attack",
    {
        "none": "dathvd.attacks.attack:NoAttack",
        "pgd": "dathvd.attacks.build:pgd",
        "apgd": "dathvd.attacks.build:apgd",
        "fgsm": "dathvd.attacks.build:fgsm",
        "fgsm_rs": "dathvd.attacks.build:fgsm_rs",
        "n_fgsm": "dathvd.attacks.build:n_fgsm",
        "free": "dathvd.attacks.build:free",
    },
)
"""Makers of attacks, of the section ``attack``."""

CODECS: Registry[Any] = Registry(
    "compression",
    "dathvd.compression.base:Compressor",
    {
        "none": "dathvd.compression.casts:NoCompression",
        "fp16": "dathvd.compression.casts:FP16",
        "bf16": "dathvd.compression.casts:BF16",
        "sign": "dathvd.compression.sign:Sign",
        "topk": "dathvd.compression.topk:TopK",
        "int8": "dathvd.compression.quantize:Int8",
        "int4": "dathvd.compression.quantize:Int4",
        "powersgd": "dathvd.compression.powersgd:PowerSGD",
        "paper": "dathvd.compression.paper:Paper",
    },
    offers=("error_feedback",),
)
"""Classes of codecs, of the section ``compression``."""

ERASURES: Places[Any] = Places(
    {
        "cutout": "dathvd.data.erasing:cutout",
        "random_erasing": "dathvd.data.erasing:random_erasing",
    }
)
"""What ``data.erase`` takes: functions of images and noise."""

MIXES: Places[Any] = Places(
    {
        "mixup": "dathvd.data.mixing:mixup",
        "cutmix": "dathvd.data.mixing:cutmix",
    }
)
"""What ``data.mix`` takes; each is a ``dathvd.data.mixing.Mix``."""

DATASETS: Registry[Any] = Registry(
    "data",
    "dathvd.data.sets:Dataset",
    {
        "digits": "dathvd.data.digits:digits",
        "mnist": "dathvd.data.mnist:mnist",
        "fashion_mnist": "dathvd.data.mnist:fashion_mnist",
        "svhn": "dathvd.data.svhn:svhn",
        "cifar10": "dathvd.data.cifar:cifar10",
        "cifar100": "dathvd.data.cifar:cifar100",
        "image_folder": "dathvd.data.folder:image_folder",
        "arrays": "dathvd.data.arrays:arrays",
        "synthetic": "dathvd.data.synthetic:synthetic",
    },
)
"""Readers of data sets, of the section ``data``."""

NETWORKS: Registry[Any] = Registry(
    "model",
    "torch.nn:Module",
    {
        "small_cnn": "dathvd.models.small:small_cnn",
        "mlp": "dathvd.models.small:mlp",
        "small_resnet": "dathvd.models.residual:small_resnet",
        "preact_resnet18": "dathvd.models.residual:preact_resnet18",
        "preact_resnet34": "dathvd.models.residual:preact_resnet34",
        "preact_resnet50": "dathvd.models.residual:preact_resnet50",
        "resnet18_small": "dathvd.models.residual:resnet18_small",
        "wide_resnet_28_10": "dathvd.models.residual:wide_resnet_28_10",
        "wide_resnet_34_10": "dathvd.models.residual:wide_resnet_34_10",
        "wide_resnet_70_16": "dathvd.models.residual:wide_resnet_70_16",
        "ra_wide_resnet_70_16": "dathvd.models.residual:ra_wide_resnet_70_16",
        "vit_s": "dathvd.models.transformer:vit_s",
        "vit_b": "dathvd.models.transformer:vit_b",
        "vit_s_convstem": "dathvd.models.transformer:vit_s_convstem",
        "vit_b_convstem": "dathvd.models.transformer:vit_b_convstem",
        "resnet18": "dathvd.models.imagenet:resnet18",
        "resnet34": "dathvd.models.imagenet:resnet34",
        "resnet50": "dathvd.models.imagenet:resnet50",
        "resnet101": "dathvd.models.imagenet:resnet101",
        "convnext_tiny": "dathvd.models.imagenet:convnext_tiny",
        "convnext_small": "dathvd.models.imagenet:convnext_small",
        "convnext_base": "dathvd.models.imagenet:convnext_base",
        "convnext_tiny_convstem": "dathvd.models.transformer:convnext_tiny_convstem",
        "convnext_small_convstem": "dathvd.models.transformer:convnext_small_convstem",
        "convnext_base_convstem": "dathvd.models.transformer:convnext_base_convstem",
    },
    offers=(
        "image_shape",
        "num_classes",
    ),
)
"""Makers of networks, of the section ``model``: the small ones, those for small
images, and torchvision's for large ones."""

OBJECTIVES: Registry[Any] = Registry(
    "objective",
    "dathvd.objectives.objective:Objective",
    {
        "adversarial": "dathvd.objectives.supervised:Adversarial",
        # the labels of rotation are the quarter turns
        "rotation": "dathvd.objectives.supervised:Adversarial",
        "plain": "dathvd.objectives.supervised:Plain",
        "trades": "dathvd.objectives.trades:Trades",
        "mart": "dathvd.objectives.mart:Mart",
        "score": "dathvd.objectives.score:Score",
        "ikl": "dathvd.objectives.ikl:Ikl",
        "hat": "dathvd.objectives.hat:Hat",
        "contrastive": "dathvd.objectives.contrastive:Contrastive",
    },
    offers=(
        "gather",
        "helper_network",
    ),
)
"""Classes of objectives, of the section ``objective``."""

PRETEXTS: Places[Any] = Places(
    {
        "rotation": "dathvd.tasks.rotation:Rotation",
        "contrastive": "dathvd.tasks.contrastive:Contrastive",
    }
)
"""Tasks by the objective that they come with; all other objectives learn the data set's
labels. Each is a class of ``Task``."""
WITHOUT_CLASSES = frozenset({"contrastive"})
"""Objectives whose network gives embeddings, where others tell classes apart."""

OPTIMIZERS: Registry[Any] = Registry(
    "optimizer",
    "torch.optim:Optimizer",
    {
        "lamb": "dathvd.optim.lamb:lamb",
        "lars": "dathvd.optim.lars:lars",
        "sgd": "dathvd.optim.plain:sgd",
        "adamw": "dathvd.optim.plain:adamw",
    },
    offers=(
        "params",
        "lr",
    ),
)
"""Makers of optimizers, of the section ``optimizer``."""

EVALUATION_ATTACKS: Places[Any] = Places(
    {
        "none": "dathvd.evaluation.attacks:NONE",
        "fgsm": "dathvd.evaluation.attacks:FGSM",
        "fgsm_rs": "dathvd.evaluation.attacks:FGSM_RS",
        "pgd": "dathvd.evaluation.attacks:PGD",
        "pgd-margin": "dathvd.evaluation.attacks:PGD_MARGIN",
        "apgd": "dathvd.evaluation.attacks:APGD",
        "autoattack": "dathvd.evaluation.autoattack:AUTOATTACK",
        "noise": "dathvd.evaluation.random_points:NOISE",
        "spatial": "dathvd.evaluation.spatial:SPATIAL",
    }
)
"""What ``dathvd evaluate --attack`` takes; each is an ``EvaluationAttack``."""

_CORRUPTIONS = "dathvd.evaluation.corruptions"
CORRUPTIONS: Places[Any] = Places(
    {
        "gaussian_noise": f"{_CORRUPTIONS}.noise:GAUSSIAN_NOISE",
        "shot_noise": f"{_CORRUPTIONS}.noise:SHOT_NOISE",
        "impulse_noise": f"{_CORRUPTIONS}.noise:IMPULSE_NOISE",
        "speckle_noise": f"{_CORRUPTIONS}.noise:SPECKLE_NOISE",
        "gaussian_blur": f"{_CORRUPTIONS}.blur:GAUSSIAN_BLUR",
        "defocus_blur": f"{_CORRUPTIONS}.blur:DEFOCUS_BLUR",
        "zoom_blur": f"{_CORRUPTIONS}.blur:ZOOM_BLUR",
        "fog": f"{_CORRUPTIONS}.light:FOG",
        "brightness": f"{_CORRUPTIONS}.light:BRIGHTNESS",
        "contrast": f"{_CORRUPTIONS}.light:CONTRAST",
        "saturate": f"{_CORRUPTIONS}.light:SATURATE",
        "pixelate": f"{_CORRUPTIONS}.digital:PIXELATE",
        "jpeg_compression": f"{_CORRUPTIONS}.digital:JPEG_COMPRESSION",
    }
)
"""What ``dathvd evaluate --corruptions`` computes; each is a ``Corruption``."""

LAUNCHERS: Places[Any] = Places(
    {
        "horovodrun": "dathvd.launch.launchers.horovodrun:HOROVODRUN",
        "mpirun": "dathvd.launch.launchers.mpirun:MPIRUN",
    }
)
"""What ``dathvd launch`` starts ranks with, the preferred ones first; each is an
``Launcher``."""

REGISTRIES: tuple[Registry[Any], ...] = (
    ATTACKS,
    CODECS,
    DATASETS,
    NETWORKS,
    OBJECTIVES,
    OPTIMIZERS,
)
"""The kinds that a configuration names."""

"""``dathvd benchmark-compression``."""

from __future__ import annotations

import click

from dathvd.commands.options import config_options


@click.command("benchmark-compression")
@config_options
@click.option(
    "--source",
    type=click.Choice(["training", "random"]),
    default="training",
    show_default=True,
    help="A gradient of adversarial training, or normal values.",
)
@click.option("--gradient", "file", metavar="FILE", help="One saved as .npy or .pt.")
@click.option(
    "--num-values",
    type=click.IntRange(min=2),
    metavar="N",
    help="Length of --source random.  [default: 11,172,032]",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Training steps up to the gradient.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=2),
    default=15,
    show_default=True,
    help="Times that each codec is timed.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write a JSON line a codec.")
@click.option("--png", "png_file", metavar="FILE", help="Draw the figures there.")
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    source: str,
    file: str | None,
    num_values: int | None,
    steps: int,
    rounds: int,
    json_file: str | None,
    png_file: str | None,
) -> None:
    """Time every codec against a memcpy, and measure its bytes and error.

    Without --config, the gradient is that of a PreActResNet-18 in PGD-3 training on
    scikit-learn's digits, enlarged to 32 x 32 in three channels, batch 16. The options
    of the codecs (density, rank) are those of the config.
    """
    from dathvd.config import load_config

    if config_file is None:
        overrides = (
            "model.name=preact_resnet18",
            "data.image_size=32",
            "data.channels=3",
            "attack.num_steps=3",
            "train.batch_size=16",
            *overrides,
        )
    config = load_config(config_file, overrides)

    from pathlib import Path

    from dathvd.benchmark.codecs import gradient, report, timing
    from dathvd.benchmark.step.timing import device_name
    from dathvd.compression import COMPRESSORS, build_compressor
    from dathvd.errors import UserError

    if num_values is not None and (source != "random" or file is not None):
        raise UserError("--num-values: only with --source random")
    if file is not None:
        subject = gradient.read_gradient(Path(file))
    elif source == "random":
        subject = gradient.random_gradient(num_values or 11_172_032)
    else:
        subject = gradient.training_gradient(config, steps)
    codecs = [
        build_compressor(config.compression.model_copy(update={"name": name}))
        for name in COMPRESSORS
    ]
    import torch

    rows = timing.measure_codecs(codecs, subject, rounds)
    report.print_table(rows, device_name(torch.device("cpu")))
    if json_file is not None:
        report.write_lines(rows, Path(json_file))
    if png_file is not None:
        report.plot(rows, Path(png_file))

"""``dathvd benchmark-step``."""

from __future__ import annotations

import click

from dathvd.commands.options import config_options


@click.command("benchmark-step")
@config_options
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Steps before the first timed one.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Timed steps.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the cores]"
)
@click.option("--real-data", is_flag=True, help="The config's own data set.")
@click.option("--json", "json_file", metavar="FILE", help="Write the figures there.")
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    warmup: int,
    repeats: int,
    threads: int | None,
    real_data: bool,
    json_file: str | None,
) -> None:
    """Time the adversarial training step of a config on one device.

    Reports images per second, floating-point operations, and their rate as a share of
    the device's own rate at large matrix products. Random images unless --real-data.
    """
    from dathvd.config import load_config

    config = load_config(config_file, overrides)

    from pathlib import Path

    import torch

    from dathvd.benchmark.step.timing import benchmark_step
    from dathvd.benchmark.step.trainers import synthetic_data
    from dathvd.files import write_json
    from dathvd.runtime import AgreedDevice
    from dathvd.tasks import load_task

    if threads is not None:
        torch.set_num_threads(threads)
    batch = config.train.batch_size
    if not real_data:
        config = synthetic_data(config, num_images=4 * batch)
    device = AgreedDevice(config.train.device, 0, 1).resolve()
    times = benchmark_step(
        config, load_task(config), device, warmup=warmup, repeats=repeats
    )
    if json_file is not None:
        write_json(Path(json_file), times.to_json())
    click.echo(
        f"{times.device}, {times.num_threads} threads, "
        f"{config.model.name}, {config.attack.name}-{config.attack.num_steps}, "
        f"{times.batch_size} images a step\n"
        f"step    {times.step_seconds:.4g} s ± {times.step_spread:.2g} "
        f"(attack {times.attack_seconds:.4g}, rest {times.update_seconds:.4g}), "
        f"median of {times.num_steps}\n"
        f"images  {times.images_per_second:.4g} a second\n"
        f"flops   {times.flops_per_image / 1e9:.4g} G an image, "
        f"{times.flops_per_second / 1e9:.4g} G a second\n"
        f"share   {times.matmul_share:.1%} of this device's "
        f"{times.matmul_flops_per_second / 1e9:.4g} G a second at matrix products"
    )

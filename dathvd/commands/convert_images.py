"""``dathvd convert-images``: image files that all workers of a host share."""

from __future__ import annotations

import click


@click.command("convert-images")
@click.argument("sources", metavar="FILES...", nargs=-1, required=True)
@click.option("--output", required=True, metavar="FOLDER", help="Where they are put.")
def command(sources: tuple[str, ...], output: str) -> None:
    """Unpack FILES (.npz, .pickle) into .npy files, which data.extra maps into memory.

    Compressed files cannot be mapped: every worker would hold a copy. The checksums in
    an .npz file are compared, also with what was written. The same command goes on
    where it was interrupted.

    \b
    dathvd convert-images cifar10-1m.npz --output generated
    dathvd train --set data.extra=generated/cifar10-1m-images.npy
    """
    from pathlib import Path

    from dathvd.data.convert import check_names, convert
    from dathvd.files import make_folder
    from dathvd.report.progress import Progress

    folder, files = Path(output), [Path(source) for source in sources]
    check_names(files)
    make_folder(folder)
    for source in files:
        progress = Progress(f"convert {source.name}", 1)

        def on_bytes(done: int, total: int, progress: Progress = progress) -> None:
            progress.total(total >> 20)
            progress.update({"step": done >> 20})

        try:
            file = convert(source, folder, on_bytes)
        finally:
            progress.close()
        click.echo(f"{source}: written and checked; set data.extra to {file}")

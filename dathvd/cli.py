"""The ``dathvd`` command: each subcommand is a module that is imported when used."""

from __future__ import annotations

import importlib

import click

from dathvd import __version__
from dathvd.errors import nearest

# what people do -> its commands: (module that defines it as `command`, line in --help)
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Train": {
        "train": (
            "dathvd.commands.train",
            "Train a robust model (one worker a process).",
        ),
        "pseudo-label": (
            "dathvd.commands.pseudo_label",
            "Label images with a trained run.",
        ),
        "convert-images": (
            "dathvd.commands.convert_images",
            "Unpack files of images, to be shared by workers.",
        ),
        "show-config": (
            "dathvd.commands.show_config",
            "Print the resolved configuration.",
        ),
    },
    "Judge": {
        "evaluate": (
            "dathvd.commands.evaluate",
            "Evaluate a trained run under attack.",
        ),
        "certify": (
            "dathvd.commands.certify",
            "Certify radii of predictions under noise.",
        ),
        "sanity": (
            "dathvd.commands.sanity",
            "Look for masked gradients in a run.",
        ),
        "export": (
            "dathvd.commands.export",
            "Write a run's network for other programs.",
        ),
    },
    "Run on a cluster": {
        "launch": (
            "dathvd.commands.launch",
            "Start ranks on hosts; look after them.",
        ),
        "doctor": (
            "dathvd.commands.doctor",
            "Say what is there, wrong, and what helps.",
        ),
    },
    "Submit and watch": {
        "submit": (
            "dathvd.commands.submit",
            "Submit runs to a queue or a cluster.",
        ),
        "runs": ("dathvd.commands.runs", "List submitted runs and their states."),
        "logs": ("dathvd.commands.logs", "Print what a submitted run said."),
        "stop": ("dathvd.commands.stop", "End submitted runs; they save first."),
        "resume": (
            "dathvd.commands.resume",
            "Go on with runs that ended, from their checkpoints.",
        ),
        "retry": ("dathvd.commands.retry", "Run jobs that ended anew."),
        "compare": (
            "dathvd.commands.compare",
            "Show runs side by side: fields and accuracies.",
        ),
        "serve": (
            "dathvd.commands.serve",
            "Show submitted runs on a page; an HTTP API.",
        ),
    },
    "Measure": {
        "benchmark-accuracy": (
            "dathvd.commands.benchmark_accuracy",
            "Compare variants of a run over seeds.",
        ),
        "benchmark-methods": (
            "dathvd.commands.benchmark_methods",
            "Compare training methods on a folder of images.",
        ),
        "benchmark-batches": (
            "dathvd.commands.benchmark_batches",
            "Compare LAMB with SGD over batch sizes.",
        ),
        "benchmark-convergence": (
            "dathvd.commands.benchmark_convergence",
            "Compare gradients with the convergence theorem.",
        ),
        "benchmark-step": (
            "dathvd.commands.benchmark_step",
            "Time the training step on one device.",
        ),
        "benchmark-compression": (
            "dathvd.commands.benchmark_compression",
            "Time every codec against a memcpy.",
        ),
        "benchmark-speedup": (
            "dathvd.commands.benchmark_speedup",
            "Measure steps over workers, codecs and overlap.",
        ),
        "rig": (
            "dathvd.commands.rig",
            "Make hosts with slow links on this machine.",
        ),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time, when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(
                f"unknown command {args[0]!r} {nearest(args[0], COMMANDS)}", ctx=None
            )
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        longest = max(map(len, COMMANDS))  # one column of names over all groups
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name.ljust(longest), line)
                        for name, (_, line) in commands.items()
                    ]
                )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dathvd")
def cli() -> None:
    """Distributed adversarial training of robust networks on Horovod.

    Start with: dathvd train, or with several workers: horovodrun -np 2 dathvd train
    """

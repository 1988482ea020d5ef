"""The command line: quick help, one line for a mistake, exit codes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from dathvd.cli import COMMANDS, GROUPS, cli
from tests.processes import DATHVD, environment, run


def seconds(arguments: list[str]) -> float:
    """How long a quick command takes."""
    began = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, env=environment())
    return time.perf_counter() - began


def test_help_is_quick() -> None:
    """Python itself takes 15 to 20 ms; 0.3 s are some 15 times that."""
    pairs = [
        (seconds([DATHVD, "--help"]), seconds([sys.executable, "-c", "pass"]))
        for _ in range(7)
    ]
    ratio = statistics.median(ours / bare for ours, bare in pairs)
    assert ratio < 12, pairs


def test_help_imports_neither_torch_nor_horovod() -> None:
    script = (
        "import sys; sys.argv = ['dathvd', '--help']\n"
        "from dathvd.cli import cli\n"
        "cli.main(standalone_mode=False)\n"
        "print({'torch', 'horovod', 'numpy', 'mpi4py', 'pydantic'} & set(sys.modules))"
    )
    done = run([sys.executable, "-c", script])
    assert done.stdout.rstrip().endswith("set()"), done.output


@pytest.mark.slow
def test_a_worker_starts_without_what_few_runs_need() -> None:
    script = (
        "import sys, dathvd.training.run\n"
        "from dathvd.config import load_config\n"
        "from dathvd.data import load_dataset\n"
        "load_dataset(load_config().data)\n"
        "few = {'scipy', 'sklearn', 'matplotlib', 'tensorboard', 'torch._dynamo'}\n"
        "print(few & set(sys.modules))"
    )
    done = run([sys.executable, "-c", script])
    assert done.stdout.rstrip().endswith("set()"), done.output


def test_help_lists_every_command_once_under_what_people_do() -> None:
    lines = run([DATHVD, "--help"]).stdout.splitlines()
    places = [lines.index(f"{title}:") for title in GROUPS]
    assert places == sorted(places)
    columns = set()
    for title, start in zip(GROUPS, places):
        below = lines[start + 1 : start + 1 + len(GROUPS[title])]
        assert [line.split()[0] for line in below] == list(GROUPS[title])
        columns |= {len(line) - len(line.split(None, 1)[1]) for line in below}
    assert len(columns) == 1, "descriptions start in different columns"
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(set(names) & set(COMMANDS)) == sorted(COMMANDS)


def test_every_command_has_its_own_help() -> None:
    script = (
        "import sys\n"
        "from dathvd.cli import COMMANDS, cli\n"
        "for name in COMMANDS: cli.main([name, '--help'], standalone_mode=False)\n"
        "print({'torch', 'horovod'} & set(sys.modules))"
    )
    done = run([sys.executable, "-c", script])
    assert done.stdout.count("Usage:") == len(COMMANDS), done.output
    assert done.stdout.rstrip().endswith("set()"), done.output


def test_what_a_command_writes_by_itself_is_under_runs() -> None:
    written = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        for option in getattr(command, "params", []):
            if option.name in ("out", "output", "run_dir", "json_file"):
                written[f"{name} {option.opts[0]}"] = option.default
    assert written["benchmark-speedup --output"] == "runs/speedup"
    # a path or none at all: click marks the latter by an object of its own
    paths = [default for default in written.values() if isinstance(default, str)]
    assert all(Path(path).parts[0] == "runs" for path in paths), written


def test_an_unknown_command_is_one_line_with_the_nearest() -> None:
    done = run([DATHVD, "trian"])
    assert done.code == 2
    assert done.stderr == (
        "dathvd: error: unknown command 'trian' (did you mean 'train'?)\n"
    )


def test_an_unknown_option_is_one_line() -> None:
    done = run([DATHVD, "train", "--epochs", "3"])
    assert done.code == 2
    assert done.stderr.startswith("dathvd: error: No such option")
    assert done.stderr.count("\n") == 1


def test_show_config_prints_what_a_run_would_use() -> None:
    done = run([DATHVD, "show-config", "--set", "attack.epsilon=8/255"])
    assert done.code == 0
    assert f"epsilon: {8 / 255}" in done.stdout


@pytest.mark.slow
def test_evaluate_refuses_a_run_that_is_not_there() -> None:
    done = run([DATHVD, "evaluate", "nowhere"])
    assert done.code == 2
    assert done.stderr == "dathvd: error: run nowhere: no such folder\n"

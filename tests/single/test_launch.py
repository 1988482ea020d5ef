"""dathvd launch without starting ranks: options to arguments, hosts, what is said."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dathvd.errors import UserError
from dathvd.launch import (
    Host,
    LaunchOptions,
    launch_command,
    launch_environment,
    parse_hostfile,
    parse_hosts,
)
from dathvd.launch.attempts import Plan, with_run_dir
from dathvd.launch.environment import for_rank
from dathvd.launch.hosts import is_local
from dathvd.launch.launchers import LAUNCHERS, choose_launcher
from dathvd.launch.options import Controller
from dathvd.launch.reach import ssh_command
from dathvd.launch.report import RankEnded, error_text, first_cause, read_line
from dathvd.launch.signals import StopSignals
from dathvd.launch.supervise import Attempt, Outcome
from dathvd.launch.tree import WORKER as WORKER_MODULE
from tests.processes import DATHVD, run

WORKER = ["python", "-m", "dathvd.launch.worker", "--", "train"]
TWO_HOSTS = (Host("a", 2), Host("b", 1))


def test_local_ranks_over_gloo() -> None:
    options = LaunchOptions(num_proc=4, controller="gloo")
    command = launch_command(
        options, WORKER, installed={"horovodrun": "/v/horovodrun"}, environment={}
    )
    assert command == ["/v/horovodrun", "-np", "4", "--gloo", *WORKER]


def test_gloo_on_other_hosts_needs_to_know_the_interface() -> None:
    """Else horovodrun looks for one by services whose key is on command lines."""
    options = LaunchOptions(num_proc=3, hosts=TWO_HOSTS, controller="gloo")
    with pytest.raises(UserError, match="--network-interface, such as eth0"):
        launch_command(
            options, WORKER, installed={"horovodrun": "horovodrun"}, environment={}
        )


def test_hosts_interface_and_ssh_over_gloo() -> None:
    options = LaunchOptions(
        num_proc=3,
        hosts=TWO_HOSTS,
        controller="gloo",
        network_interface="eth0",
        ssh_port=2222,
        ssh_identity_file="/k",
    )
    command = launch_command(
        options,
        WORKER,
        installed={"horovodrun": "horovodrun"},
        environment={"SECRET": "x"},
    )
    assert command == [
        *["horovodrun", "-np", "3", "-H", "a:2,b:1", "--gloo"],
        *["--network-interface", "eth0", "--ssh-port", "2222"],
        *["--ssh-identity-file", "/k", *WORKER],
    ]


def test_mpirun_gets_names_and_never_values() -> None:
    environment = {"PATH": "/bin", "HF_TOKEN": "hush", "OMPI_MCA_x": "1", "a b": "2"}
    command = launch_command(
        LaunchOptions(num_proc=2, hosts=TWO_HOSTS, network_interface="eth0"),
        WORKER,
        installed={"mpirun": "mpirun"},
        environment=environment,
    )
    assert command == [
        *["mpirun", "--allow-run-as-root", "--tag-output", "-np", "2"],
        *["-H", "a:2,b:1", "--bind-to", "none", "--map-by", "slot"],
        *["-mca", "pml", "ob1", "-mca", "btl", "^openib"],
        *["-mca", "btl_tcp_if_include", "eth0", "-mca", "oob_tcp_if_include", "eth0"],
        *["-x", "HF_TOKEN", "-x", "PATH", *WORKER],
    ]
    assert "hush" not in " ".join(command)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_starts_the_worker_on_all_ranks_and_shows_no_value(
    name: str,
) -> None:
    launcher = LAUNCHERS[name]
    for controller in launcher.controllers:
        options = LaunchOptions(
            num_proc=3,
            hosts=TWO_HOSTS,
            controller=controller,
            launcher=name,
            network_interface="eth0",
        )
        environment = {"HF_TOKEN": "hush", "PATH": "/bin"}
        command = launch_command(
            options, WORKER, installed={name: f"/v/{name}"}, environment=environment
        )
        assert command[0] == f"/v/{name}" and command[-len(WORKER) :] == WORKER
        arguments = command[1 : -len(WORKER)]
        assert "3" in arguments
        assert not any("hush" in word or "/bin" in word for word in arguments)


@pytest.mark.parametrize(
    "launcher, controller, installed, message",
    [
        (
            "mprun",
            "mpi",
            ["mpirun"],
            "--launcher: unknown 'mprun' (did you mean 'mpiru",
        ),
        (None, "mpi", ["horovodrun"], "--mpi needs mpirun, which is not installed (ho"),
        (
            "mpirun",
            "mpi",
            ["horovodrun"],
            "--launcher mpirun: it is not installed here",
        ),
        (
            "mpirun",
            "gloo",
            ["mpirun"],
            "--launcher mpirun: cannot start ranks over gloo",
        ),
        (None, "mpi", [], "none of horovodrun, mpirun is installed here"),
    ],
)
def test_an_launcher_that_cannot_start_the_ranks_is_refused(
    launcher: str | None, controller: Controller, installed: list[str], message: str
) -> None:
    options = LaunchOptions(num_proc=2, controller=controller, launcher=launcher)
    with pytest.raises(UserError) as caught:
        choose_launcher(options, dict.fromkeys(installed, "/v/program"))
    assert str(caught.value).startswith(message)


def test_the_first_installed_launcher_is_taken_and_the_named_one_where_named() -> None:
    both = {"mpirun": "m", "horovodrun": "h"}
    over_gloo = LaunchOptions(num_proc=2, controller="gloo")
    assert choose_launcher(LaunchOptions(num_proc=2), both) == "mpirun"
    assert choose_launcher(over_gloo, both) == "horovodrun"
    assert (
        choose_launcher(LaunchOptions(num_proc=2, launcher="mpirun"), both) == "mpirun"
    )
    # Horovod's launcher would show a key on command lines over MPI
    with pytest.raises(UserError, match="cannot start ranks over mpi"):
        choose_launcher(LaunchOptions(num_proc=2, launcher="horovodrun"), both)


def test_gloo_needs_horovodrun() -> None:
    options = LaunchOptions(num_proc=2, controller="gloo")
    with pytest.raises(UserError, match="horovodrun, which is not installed"):
        launch_command(options, WORKER, installed={"mpirun": "mpirun"}, environment={})


def test_ranks_get_what_is_listed_and_what_is_asked_for() -> None:
    environ = {
        "PATH": "/bin",
        "HF_TOKEN": "hush",
        "DATHVD_CIFAR10_JPEG": "/data",
        "NCCL_DEBUG": "INFO",
        "DATABASE_URL": "postgres://u:hush@h",
        "DATHVD_API_TOKEN": "hush",
        "SLURM_JWT": "hush",
        "DATHVD_PW": "hush",
        "TORCH_HUB_CREDS": "hush",
        "HOROVOD_SECRET": "hush",
        "MINE": "1",
    }
    kept = {"PATH", "DATHVD_CIFAR10_JPEG", "NCCL_DEBUG", "MINE"}
    controllers: tuple[Controller, ...] = ("gloo", "mpi")
    for controller in controllers:
        options = LaunchOptions(num_proc=2, controller=controller, forward=("MINE",))
        environment = launch_environment(environ, options)
        assert kept <= environment.keys()
        assert "hush" not in " ".join(environment.values())


def test_mpirun_is_told_of_hosts_and_its_ranks_are_not() -> None:
    """An agent's socket, an engine's list of hosts, MPI's own settings."""
    environ = {
        "SSH_AUTH_SOCK": "/agent",
        "SLURM_JOB_ID": "7",
        "OMPI_MCA_btl": "self",
        "PATH": "/bin",
        "SLURM_JWT": "hush",
    }
    options = LaunchOptions(num_proc=2)
    environment = launch_environment(environ, options)
    assert environ.items() - environment.items() == {("SLURM_JWT", "hush")}
    command = launch_command(
        options, WORKER, installed={"mpirun": "mpirun"}, environment=environment
    )
    given = {after for word, after in zip(command, command[1:]) if word == "-x"}
    assert "PATH" in given and not given & {*environ} - {"PATH"}
    assert "SSH_AUTH_SOCK" not in for_rank(environment)
    gloo = LaunchOptions(num_proc=2, controller="gloo")
    assert "SSH_AUTH_SOCK" not in launch_environment(environ, gloo)


@pytest.mark.parametrize(
    ("name", "message"),
    [("HF_TOKEN", "command lines"), ("NOT_SET", "this variable is not set")],
)
def test_what_cannot_be_forwarded_over_gloo(name: str, message: str) -> None:
    options = LaunchOptions(num_proc=1, controller="gloo", forward=(name,))
    with pytest.raises(UserError, match=message):
        launch_environment({"HF_TOKEN": "hush"}, options)


def test_the_users_own_settings_win() -> None:
    environ = {"OMPI_MCA_btl_tcp_flags": "6", "MALLOC_TOP_PAD_": "0"}
    options = LaunchOptions(num_proc=3, hosts=TWO_HOSTS)
    environment = launch_environment(environ, options)
    assert environment.items() >= environ.items()
    assert "BatchMode=yes" in environment["OMPI_MCA_plm_rsh_args"]


def test_hosts_are_parsed() -> None:
    assert parse_hosts("a:2,b,c-1.example:16") == (
        Host("a", 2),
        Host("b", 1),
        Host("c-1.example", 16),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:0", "slots of a: expected a whole number of at least 1, got '0'"),
        ("a:x", "got 'x'"),
        ("a:", "got ''"),
        ("a:2,,b:1", "'' is not a host name"),
        ("-oProxyCommand=evil", "is not a host name"),
        ("a;rm", "is not a host name"),
        ("a:1,a:2", "host 'a' is named twice"),
    ],
)
def test_wrong_hosts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_hosts(text)


def test_a_hostfile_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# racks\na slots=2 max_slots=4\n\nb:3  # spare\nc\n")
    assert parse_hostfile(file) == (Host("a", 2), Host("b", 3), Host("c", 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=two\n", "line 1: slots of a"),
        ("# none\n", "names no host"),
        ("a\na\n", "named twice"),
    ],
)
def test_a_wrong_hostfile_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        parse_hostfile(file)


def test_a_missing_hostfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        parse_hostfile(tmp_path / "none")


def test_more_ranks_than_slots_are_refused() -> None:
    with pytest.raises(UserError, match="-np 4: the hosts have 3 slots in total"):
        LaunchOptions(num_proc=4, hosts=TWO_HOSTS)


def test_this_machine_is_local_and_others_are_not() -> None:
    assert is_local("localhost") and is_local("127.0.0.1")
    assert not is_local("no-such-host.invalid")


def test_ssh_never_asks() -> None:
    options = LaunchOptions(num_proc=1, ssh_port=2222, ssh_identity_file="/k")
    assert ssh_command("a", options, "true") == [
        *["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"],
        *["-o", "ConnectTimeout=5", "-o", "ConnectionAttempts=1"],
        *["-o", "ServerAliveInterval=5"],
        *["-o", "ServerAliveCountMax=3", "-p", "2222", "-i", "/k", "a", "true"],
    ]


def test_train_gets_one_run_folder_for_all_tries() -> None:
    words, run_dir = with_run_dir(["train", "--set", "seed=1"])
    assert run_dir is not None and run_dir.parent == Path("runs")
    assert words == ["train", "--set", "seed=1", "--run-dir", str(run_dir)]
    assert run_dir != with_run_dir(["train"])[1]  # of another job in the same second
    assert with_run_dir(["train", "--run-dir", "r"]) == (
        ["train", "--run-dir", "r"],
        Path("r"),
    )
    assert with_run_dir(["train", "--run-dir=r"])[1] == Path("r")
    assert with_run_dir(["doctor"]) == (["doctor"], None)


def test_the_dry_run_can_be_pasted(tmp_path: Path) -> None:
    plan = Plan(
        command=[sys.executable, "-c", "import os, sys; print(os.environ, sys.argv)"],
        environment={"KEPT": "a b", "ADDED": "$HOME 'x'", "PATH": "/bin"},
        run_dir=None,
    )
    plan.command.append("two words")
    line = plan.to_shell({"KEPT": "a b", "DROPPED": "1", "PATH": "/bin"})
    assert "KEPT" not in line
    done = subprocess.run(
        ["sh", "-c", line],
        env={"KEPT": "a b", "DROPPED": "1", "PATH": "/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'ADDED': \"$HOME 'x'\"" in done.stdout
    assert "DROPPED" not in done.stdout
    assert "two words" in done.stdout


def test_dry_run_prints_one_command_and_starts_nothing(tmp_path: Path) -> None:
    arguments = ["launch", "-np", "3", "--dry-run", "--", "train", "--set", "seed=1"]
    done = run([DATHVD, *arguments], cwd=tmp_path)
    assert done.code == 0, done.output
    words = shlex.split(done.stdout)
    start = words.index("-np")
    assert words[start : start + 2] == ["-np", "3"]
    assert "mpirun" in [Path(word).name for word in words[:start]]
    worker = words.index("-P")
    assert words[worker - 1 : worker + 3] == [sys.executable, *WORKER_MODULE]
    assert words[-5:-1] == ["train", "--set", "seed=1", "--run-dir"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-np", "0", "--", "train"], "0 is not in the range x>=1"),
        (["--", "train", "--run-dir", "r"], None),
        (["-np", "2"], "nothing to launch"),
        (["-np", "2", "--mpi", "--gloo", "--", "train"], "--mpi or --gloo, not both"),
        (["-H", "a", "--hostfile", "f", "--", "train"], "one of -H, --hostfile"),
        (["--max-np", "4", "--", "train"], "need --min-np"),
        (["--min-np", "2", "--", "train"], "name the hosts by --hostfile"),
        (["--min-np", "2", "-np", "2", "-H", "a:2", "--", "train"], "-np or --min-np"),
        (
            ["--min-np", "3", "--max-np", "2", "-H", "a:4", "--", "train"],
            "fewer than --min-np 3",
        ),
        (["-np", "2", "--max-restarts", "-1", "--", "train"], "x>=0"),
        (["-np", "2", "--frobnicate", "--", "train"], "--frobnicate"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], message: str | None) -> None:
    done = run([DATHVD, "launch", "--dry-run", *arguments])
    if message is None:
        assert done.code == 0, done.output
        return
    assert done.code == 2
    assert done.stderr.startswith("dathvd: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_rank_s_end_survives_the_launchers_tags() -> None:
    end = RankEnded(rank=3, host="b", code=1, message='said "no", with ünïcode')
    for tag in ("", "[1,3]<stderr>:", "[3]<stderr>:"):
        assert read_line(f"{tag}{end.to_line()}\n".encode()) == end
    assert read_line(b"[1,0]<stdout>:[0] epoch 1\n") == b"[0] epoch 1\n"
    assert read_line(b"[0]<stdout>:[0] x\n") == b"[0] x\n"
    assert len(RankEnded(0, "a", 1, "x" * 10_000).to_line()) < 1000


def test_broken_reports_are_only_output() -> None:
    line = b"@dathvd-rank-ended {not json\n"
    assert read_line(line) == line
    line = b'@dathvd-rank-ended {"rank": 1}\n'
    assert read_line(line) == line


def test_a_launchers_harmless_warning_is_not_shown(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Open MPI's, seen where a machine is busy; what ranks say is not touched."""
    warning = (
        "[node0:26515] plm:rsh: Warning: setpgid(26522,26522) failed in parent "
        "with errno=Permission denied(13)"
    )
    say = f'echo "{warning}" >&2; echo "[1,0]<stderr>:[0] {warning}" >&2; echo x >&2'
    attempt = Attempt(
        ["sh", "-c", say],
        {},
        num_proc=1,
        grace=1,
        stall_limit=0,
        stop=StopSignals(),
    )
    attempt.wait()
    assert capfd.readouterr().err == f"[0] {warning}\nx\n"


def test_error_lines_are_recognised() -> None:
    assert error_text("dathvd: error: no file") == "no file"
    assert error_text("[rank 2] dathvd: error: no file") == "no file"
    assert error_text("RuntimeError: dathvd: error: x") is None


def test_the_first_cause_is_not_a_rank_that_was_ended() -> None:
    ended = RankEnded(0, "a", 143)
    crashed = RankEnded(1, "a", 1, "RuntimeError")
    refused = RankEnded(2, "a", 2, "no file")
    assert first_cause([ended, crashed]) == crashed
    assert first_cause([ended, crashed, refused]) == refused
    assert first_cause([ended]) == ended


@pytest.mark.parametrize(
    ("ends", "stopped_by", "checkpoint", "code"),
    [
        ([0, 0], None, False, 0),
        ([0, 0], 15, False, 0),  # asked to stop when all was done
        ([], None, True, 1),  # whatever the launcher itself says
        ([0], None, True, 1),
        ([2], None, False, 2),
        ([137], None, True, 1),
        ([75], None, False, 75),
        ([75, 1], None, False, 1),
        ([], 2, True, 130),
        ([], 15, False, 1),
        ([], 15, True, 75),
        ([143, 137], 15, True, 75),  # they did not save in time; an older one is there
        ([143, 137], 15, False, 1),
        ([75, 143], 15, False, 75),
        ([1], 15, True, 1),  # it failed by itself
    ],
)
@pytest.mark.parametrize("launcher_code", [0, 1])
def test_exit_codes(
    ends: list[int],
    stopped_by: int | None,
    checkpoint: bool,
    code: int,
    launcher_code: int,
) -> None:
    """Never 0 unless every rank has said that it came to its end."""
    reports = [RankEnded(rank, "a", end) for rank, end in enumerate(ends)]
    outcome = Outcome(launcher_code, 2, reports, stopped_by)
    assert outcome.exit_code(checkpoint) == code


def test_a_kill_by_signal_is_named() -> None:
    assert "SIGKILL (did the host run out of memory?)" in (
        RankEnded(1, "b", 137).describe()
    )
    assert RankEnded(1, "b", 139).describe() == "rank 1 on b: killed by SIGSEGV"

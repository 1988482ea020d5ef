"""The container's entrypoint with a real sshd: keys, known hosts, no detours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dathvd.rig.rig import network_is_available

DOCKER = Path(__file__).parents[2] / "docker"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not Path("/usr/sbin/sshd").exists(), reason="openssh-server is not installed"
    ),
    pytest.mark.skipif(
        not network_is_available(), reason="no namespaces here (needs root)"
    ),
]
# a machine of its own: its home, its /run and its ports are not this one's
CONTAINER = """
set -eu
ip link set lo up
mount -t tmpfs none /run && mkdir /run/sshd
mount -t tmpfs none /home && mkdir -p /home/dathvd/.ssh
export HOME=/home/dathvd DATHVD_SSHD=1
chmod 700 $HOME/.ssh && cp {docker}/sshd_config $HOME/.sshd_config
go() {{
    ssh -F {docker}/ssh_config -i "$(echo $HOME/.ssh/id_*[!b])" -o BatchMode=yes "$@"
}}
{script}
"""


def in_container(script: str) -> subprocess.CompletedProcess[str]:
    program = CONTAINER.format(docker=DOCKER, script=script)
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    return subprocess.run(
        [*command, "bash", "-c", program],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_ranks_reach_a_host_that_they_know_and_no_other() -> None:
    done = in_container(f"""
    # what containers left that were killed while they made the keys
    mkdir $HOME/.ssh/.making; touch $HOME/.ssh/.lock $HOME/.ssh/.new
    {DOCKER}/entrypoint.sh true
    {DOCKER}/entrypoint.sh healthy && echo "healthy"
    go localhost echo "reached"
    cmp -s $HOME/.ssh/id_ed25519 $HOME/.sshd/host_key || echo "keys differ"
    stat -c %a $HOME/.ssh/id_ed25519 $HOME/.sshd/host_key
    go -o ExitOnForwardFailure=yes -W localhost:2222 localhost || echo "no forwarding"
    # another machine under the same name
    ssh-keygen -q -t ed25519 -N '' -f $HOME/other
    /usr/sbin/sshd -f $HOME/.sshd_config -o Port=2223 -o HostKey=$HOME/other \\
        -o PidFile=none
    go -p 2223 localhost echo "fooled" || echo "refused"
    server=$(cat $HOME/.sshd/pid)
    kill "$server"
    while kill -0 "$server" 2>/dev/null; do sleep 0.1; done
    {DOCKER}/entrypoint.sh healthy || echo "sick"
    """)
    said = done.stdout.splitlines()
    assert said[:5] == ["healthy", "reached", "keys differ", "600", "600"], done
    assert said[5:] == ["no forwarding", "refused", "sick"], done


def test_an_operators_secret_is_taken_as_it_is() -> None:
    """One ECDSA pair under the name id_rsa, on a file system that is read only."""
    done = in_container(f"""
    ssh-keygen -q -t ecdsa -N '' -f $HOME/.ssh/id_rsa
    cp $HOME/.ssh/id_rsa.pub $HOME/.ssh/authorized_keys
    mount --bind -o ro $HOME/.ssh $HOME/.ssh
    {DOCKER}/entrypoint.sh true
    go localhost echo "reached"
    """)
    assert done.stdout.splitlines() == ["reached"], done


def test_containers_that_start_together_make_one_pair() -> None:
    done = in_container(f"""
    unset DATHVD_SSHD
    sed -n '/^set -eu/,/^case/p' {DOCKER}/entrypoint.sh | sed '$d' >/run/functions
    for number in 1 2 3 4; do (. /run/functions; make_keys) & done; wait
    ls -A $HOME/.ssh
    """)
    assert done.returncode == 0, done
    assert set(done.stdout.split()) == {
        ".lock", "authorized_keys", "host_key", "host_key.pub",
        "id_ed25519", "id_ed25519.pub",
    }  # fmt: skip


def test_tools_of_the_entrypoint_are_in_the_base_image() -> None:
    """flock is util-linux's, which Debian marks as essential."""
    assert shutil.which("flock")

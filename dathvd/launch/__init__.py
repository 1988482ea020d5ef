"""Starting the ranks: options to an argument list, supervision, restarts."""

from dathvd.launch.command import launch_command, launch_environment
from dathvd.launch.hosts import Host, parse_hostfile, parse_hosts
from dathvd.launch.launchers import LAUNCHERS, installed_launchers
from dathvd.launch.options import LaunchOptions

__all__ = [
    "LAUNCHERS",
    "Host",
    "LaunchOptions",
    "installed_launchers",
    "launch_command",
    "launch_environment",
    "parse_hostfile",
    "parse_hosts",
]

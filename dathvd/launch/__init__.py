"""Starting the ranks: options to an argument list, supervision, restarts."""

from dathvd.launch.command import launch_command, launch_environment
from dathvd.launch.engines import ENGINES, installed_engines
from dathvd.launch.hosts import Host, parse_hostfile, parse_hosts
from dathvd.launch.options import LaunchOptions

__all__ = [
    "ENGINES",
    "Host",
    "LaunchOptions",
    "installed_engines",
    "launch_command",
    "launch_environment",
    "parse_hostfile",
    "parse_hosts",
]

"""Starting the ranks: options to an argument list, supervision, restarts."""

from dathvd.launch.command import LaunchOptions, launch_command, launch_environment
from dathvd.launch.hosts import Host, parse_hostfile, parse_hosts

__all__ = [
    "Host",
    "LaunchOptions",
    "launch_command",
    "launch_environment",
    "parse_hostfile",
    "parse_hosts",
]

"""How a rank tells the launcher that it is there and how it ended: lines of output."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import asdict, dataclass

_STARTED = "@dathvd-rank-started "
_ENDED = "@dathvd-rank-ended "
# what horovodrun and mpirun --tag-output put before a line
_TAG = re.compile(rb"^\[\d+(?:,\d+)?\]<std(?:out|err)>:")
# Open MPI 4 says this where the process that reaches a host was quicker to begin than
# its parent was to put it into a process group: the process has done so itself.
_CHATTER = re.compile(rb"^\[[^\]]+:\d+\] plm:rsh: Warning: setpgid\(.* in parent ")
_ERROR = re.compile(r"^(?:\[rank \d+\] )?dathvd: error: ")


@dataclass(frozen=True)
class RankStarted:
    """A rank's companion is there and passes signals on."""

    rank: int
    host: str

    def to_line(self) -> str:
        """The line that carries it."""
        return _STARTED + json.dumps(asdict(self))


@dataclass(frozen=True)
class RankEnded:
    """A rank's end: code as the shell counts (0, or 128 + number of a signal)."""

    rank: int
    host: str
    code: int
    message: str = ""

    def to_line(self) -> str:
        """The line that carries it; short, so that no launcher splits it."""
        short = {**asdict(self), "message": self.message[:600]}
        return _ENDED + json.dumps(short)

    def describe(self) -> str:
        """One line for people: which rank, where, why."""
        reason = self.message or f"exit code {self.code}"
        if self.code > 128 and not self.message:
            reason = f"killed by {_signal_name(self.code - 128)}"
            if self.code == 128 + signal.SIGKILL:
                reason += " (did the host run out of memory?)"
        return f"rank {self.rank} on {self.host}: {reason}"


def read_line(line: bytes) -> RankStarted | RankEnded | bytes:
    """A line of a launcher's output: a rank's report, or the line without its tag."""
    line = _TAG.sub(b"", line)
    for mark, kind in ((_STARTED, RankStarted), (_ENDED, RankEnded)):
        if line.startswith(mark.encode()):
            try:
                text = line[len(mark) :].decode()
                return kind(**json.JSONDecoder().raw_decode(text)[0])
            except (ValueError, TypeError):
                return line
    return line


def is_chatter(line: bytes) -> bool:
    """Whether a line is a launcher's warning of what does no harm."""
    return _CHATTER.match(line) is not None


def error_text(line: str) -> str | None:
    """The text of a ``dathvd: error:`` line, None for any other line."""
    match = _ERROR.match(line)
    return line[match.end() :].strip() if match else None


def first_cause(ends: list[RankEnded]) -> RankEnded:
    """Of the ranks that failed together, the one that most likely began it.

    A user's error explains the others, a death by signal is mostly the launcher
    ending a rank, and otherwise the first that was heard of is it.
    """
    return min(ends, key=lambda end: (end.code != 2, end.code > 128))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

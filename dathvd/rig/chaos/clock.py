"""A wall clock of a job's own that can be stepped, while the machine's is left alone.

A library that is loaded before all others adds an offset to what processes are told of
the time of day. The offset is in a file of eight bytes that all of them map.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

_VARIABLE = "DATHVD_CHAOS_CLOCK"
_SOURCE = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *seconds;
static int (*told)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("%(variable)s");
    int descriptor = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    told = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (descriptor < 0) return;
    void *page = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, descriptor, 0);
    if (page != MAP_FAILED) seconds = page;
    close(descriptor);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!told) begin();
    int code = told(clock, now);
    if (!code && seconds && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *seconds;
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    int code = clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return code;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""


def missing() -> str | None:
    """What this machine lacks for it, if anything."""
    return None if shutil.which("cc") else "cc, for a clock of its own"


def environment(folder: Path) -> Mapping[str, str]:
    """What gives a job's processes a clock of their own, which is right at first."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(_SOURCE % {"variable": _VARIABLE}, encoding="utf-8")
    words = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(words, check=True, capture_output=True)
    (folder / "clock").write_bytes(struct.pack("=q", 0))
    first = [str(library), os.environ.get("LD_PRELOAD", "")]
    return {
        _VARIABLE: str(folder / "clock"),
        "LD_PRELOAD": ":".join(filter(None, first)),
    }


def step(folder: Path, seconds: int) -> None:
    """Have the clock be wrong by so much from now on."""
    with (folder / "clock").open("r+b") as file:  # the same file, which is mapped
        file.write(struct.pack("=q", seconds))

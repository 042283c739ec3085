"""A process whose wall clock can be set: the calls of libc, a second number added. Not its monotonic one."""

import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long added(void) {
    const char *path = getenv("WALL_CLOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, id, at);
    if (!failed && id == CLOCK_REALTIME) at->tv_sec += added();
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class WallClock:
    def __init__(self, folder: Path) -> None:
        self._offset = folder / "wall-clock"
        self._offset.write_text("0")
        self._library = folder / "wallclock.so"
        self.missing = self._build(folder / "wallclock.c")
        """Why it cannot be had."""

    @property
    def environ(self) -> dict[str, str]:
        if self.missing:
            return {}
        return {"LD_PRELOAD": str(self._library), "WALL_CLOCK": str(self._offset)}

    def set(self, seconds: int) -> None:
        """So far from the true time from now on."""
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.rename(self._offset)

    def _build(self, source: Path) -> str:
        source.write_text(SOURCE)
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", self._library, source]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except OSError:
            return "there is no C compiler"
        return ran.stderr.strip()[:200] if ran.returncode else ""

"""The disk under the spool, which can be filled while `collect` runs.

As root on Linux it is a small tmpfs of its own that only this process and its children see; it fills up as a real
disk does. Without root the processes are forbidden to let any file grow (RLIMIT_FSIZE): the same refusal, from the
kernel, under another error number.
"""

from __future__ import annotations

import ctypes
import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import psutil

TMPFS_BYTES: Final = 256 << 20
BALLAST_CHUNK_BYTES: Final = 1 << 20
CAN_FILL: Final = hasattr(psutil, "RLIMIT_FSIZE")
"""On Linux."""
_CLONE_NEWNS: Final = 0x00020000


class Disk(Protocol):
    """Something that can run out of room."""

    name: str

    def fill(self) -> None:
        """From now on nothing fits."""

    def relieve(self) -> None:
        """There is room again."""


class Tmpfs:
    """A file system in memory, mounted at a folder. It goes with the last process that sees it."""

    name = f"a tmpfs of {TMPFS_BYTES >> 20} MiB"

    def __init__(self, folder: Path) -> None:
        """Raises OSError where this process may not mount. Call it before any thread is started."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        folder.mkdir(parents=True, exist_ok=True)
        for command in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=700", "tmpfs", str(folder)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        self._folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """See `Disk`."""
        with suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while file.write(bytes(BALLAST_CHUNK_BYTES)):
                pass

    def relieve(self) -> None:
        """See `Disk`."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """The folder is an ordinary one again, with what it held; nobody may use it meanwhile."""
        self.relieve()
        kept = self._folder.with_name(f"{self._folder.name}.kept")
        shutil.copytree(self._folder, kept)
        subprocess.run(["umount", str(self._folder)], check=True)
        self._folder.rmdir()
        kept.rename(self._folder)


class FileSizes:
    """RLIMIT_FSIZE on running processes, set from outside. A process started meanwhile is free of it."""

    name = "RLIMIT_FSIZE (no right to mount a file system of its own)"

    def __init__(self, processes: Callable[[], Sequence[psutil.Process]]) -> None:
        self._processes = processes

    def fill(self) -> None:
        """See `Disk`."""
        self._limit(0)

    def relieve(self) -> None:
        """See `Disk`."""
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for process in self._processes():
            with suppress(psutil.Error):
                process.rlimit(psutil.RLIMIT_FSIZE, (size, process.rlimit(psutil.RLIMIT_FSIZE)[1]))

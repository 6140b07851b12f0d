"""What a benchmark needs beside the Python packages. As root on Debian a missing package is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

PACKAGES: Final = {
    "wrk": "wrk",
    "nginx": "nginx",
    "/usr/lib/nginx/modules/ngx_http_lua_module.so": "libnginx-mod-http-lua",
    "/usr/share/lua/5.1/nginx/kafka/producer.lua": "lua-nginx-kafka",
    "java": "openjdk-17-jre-headless",
    "mvn": "maven",
    "taskset": "util-linux",
    "chromium": "chromium",
    "npm": "npm",
}
"""Program or file -> the Debian package that has it."""


class Fault(Exception):
    """What is wrong, as a sentence with its remedy."""


def need(*wanted: str) -> None:
    """Return once all of these (keys of PACKAGES) are here.

    Raises:
        Fault: something is missing and cannot be installed; the message names its package.
    """
    missing = [PACKAGES[each] for each in wanted if not _there(each)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(missing)}", file=sys.stderr)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", *command], stdout=sys.stderr, env=environment, check=False)
        missing = [PACKAGES[each] for each in wanted if not _there(each)]
    if missing:
        names = " ".join(missing)
        raise Fault(f"Missing: {names}. On Debian and Ubuntu: sudo apt-get install {names}")


def _there(what: str) -> bool:
    return Path(what).exists() if what.startswith("/") else shutil.which(what) is not None

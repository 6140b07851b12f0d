"""The servers that are measured, each as it would be run: ours with its settings as shipped, its peers as configured
in loadtests/peers.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.bench import broker, traffic
from loadtests.bench.parts import Fault, need
from loadtests.bench.processes import ROOT, Process, free_port, running

BIN: Final = ROOT / ".venv" / "bin"
PEERS: Final = ROOT / "loadtests" / "peers"
EVENTS: Final = "pinstream.events"


@dataclass(frozen=True)
class Server:
    """A running server, and where the events it took are counted."""

    port: int
    process: Process
    bootstrap: str = ""
    topic: str = ""
    quiet_s: float = 1.0
    """After this long without a new record all have arrived."""

    def records(self) -> int:
        """Events in Kafka, once no more come."""
        return broker.settled(self.bootstrap, self.topic, self.quiet_s)


@contextmanager
def ours(
    home: Path, core: int, bootstrap: str, extra: Mapping[str, str], *, origin: str = traffic.ORIGIN
) -> Iterator[Server]:
    """One worker of `pinstream collect` on Kafka, unless `extra` says otherwise: settings beside ports, such as
    {"log.kind": "journal"}. `origin` is where its site's pages come from.
    """
    home.mkdir()
    port = free_port()
    chosen = {
        "data_dir": str(home / "data"),
        "collect.port": str(port),
        "collect.ops_port": str(free_port()),
        "log.kind": "kafka",
        "log.kafka_bootstrap": bootstrap,
        "log.kafka_create_topics": "true",
        **extra,
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
    env = clean | {"PINSTREAM_" + key.upper().replace(".", "__"): value for key, value in chosen.items()}
    (home / "data").mkdir()
    add = [str(BIN / "pinstream"), "sites", "add", "--tag-id", traffic.SITE, "--origin", origin]
    done = subprocess.run(add, env=env, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Fault(f"`pinstream sites add` failed: {done.stderr}")
    with running([str(BIN / "pinstream"), "collect"], core=core, port=port, log=home / "log", env=env) as process:
        yield Server(port, process, bootstrap, EVENTS)


@contextmanager
def nginx_204(home: Path, core: int) -> Iterator[Server]:
    """nginx that drops every body."""
    need("nginx")
    with _nginx(home, core, "nginx_204.conf", {}) as server:
        yield server


@contextmanager
def nginx_lua(home: Path, core: int, bootstrap: str) -> Iterator[Server]:
    """nginx with lua-nginx-kafka, which sends to Kafka after it has answered."""
    need("nginx", "/usr/lib/nginx/modules/ngx_http_lua_module.so", "/usr/share/lua/5.1/nginx/kafka/producer.lua")
    broker.create(bootstrap, "nginx_lua")
    tokens = {"BROKER_PORT": bootstrap.rpartition(":")[2], "TOPIC": "nginx_lua"}
    with _nginx(home, core, "nginx_lua.conf", tokens) as server:
        # it flushes every second
        yield Server(server.port, server.process, bootstrap, "nginx_lua", quiet_s=2.5)


@contextmanager
def naive(home: Path, core: int, bootstrap: str) -> Iterator[Server]:
    """Plain Starlette and aiokafka."""
    home.mkdir()
    broker.create(bootstrap, "naive")
    port = free_port()
    options = ["--port", str(port), "--http", "httptools", "--loop", "uvloop", "--no-access-log"]
    command = [str(BIN / "uvicorn"), "--app-dir", str(PEERS), "naive:app", *options]
    env = {**os.environ, "NAIVE_BOOTSTRAP": bootstrap, "NAIVE_TOPIC": "naive"}
    with running(command, core=core, port=port, log=home / "log", env=env) as process:
        yield Server(port, process, bootstrap, "naive")


@contextmanager
def floor(home: Path, core: int) -> Iterator[Server]:
    """HTTP alone, in Python."""
    home.mkdir()
    port = free_port()
    command = [str(BIN / "python"), str(PEERS / "floor.py"), str(port)]
    with running(command, core=core, port=port, log=home / "log", env=os.environ) as process:
        yield Server(port, process)


@contextmanager
def _nginx(home: Path, core: int, template: str, tokens: Mapping[str, str]) -> Iterator[Server]:
    home.mkdir()
    port = free_port()
    text = (PEERS / template).read_text()
    for name, value in {"PORT": str(port), "HOME": str(home), **tokens}.items():
        text = text.replace(f"@{name}@", value)
    config = home / "nginx.conf"
    config.write_text(text)
    command = ["nginx", "-p", str(home), "-c", str(config)]
    with running(command, core=core, port=port, log=home / "log", env=os.environ) as process:
        yield Server(port, process)


def answer(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and head of the answer to one request, sent as it is."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(65_536)
            if not more:
                raise Fault(f"The server on port {port} closed the connection instead of answering.")
            head += more
    return int(head.split(b" ", 2)[1]), head

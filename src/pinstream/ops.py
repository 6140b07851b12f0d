"""The operations port of a role: `/readyz` tells the truth, `/metrics` counts. Keep it private."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pinstream import metrics
from pinstream.errors import PinstreamError
from pinstream.serving import serving

logger = logging.getLogger(__name__)

Ready = Callable[[], Awaitable[None]]
"""Returns if the role can do its work now, else raises the PinstreamError that says why not."""


Report = Callable[[], Awaitable[dict[str, object]]]
"""What `/readyz` says: `ready`, which decides its status, and why not."""


def app(report: Report, exposition: Callable[[], bytes]) -> Starlette:
    """The two routes."""

    async def readyz(request: Request) -> Response:
        said = await report()
        return JSONResponse(said, 200 if said["ready"] else 503)

    async def counted(request: Request) -> Response:
        return Response(exposition(), media_type=metrics.CONTENT_TYPE)

    return Starlette(routes=[Route("/readyz", readyz), Route("/metrics", counted)])


async def report_of(ready: Ready) -> dict[str, object]:
    """`ready` as a report."""
    try:
        await ready()
    except PinstreamError as exc:
        return {"ready": False, "reason": exc.reason, "hint": str(exc)}
    return {"ready": True}


@asynccontextmanager
async def serve(host: str, port: int, ready: Ready, *, listener: socket.socket | None = None) -> AsyncIterator[None]:
    """Serve the operations port of this process while the block runs; `listener` as in `serving`.

    Raises:
        SetupFault: the port is taken.
    """
    async with serving(app(partial(report_of, ready), metrics.exposition), host, port, listener=listener):
        yield

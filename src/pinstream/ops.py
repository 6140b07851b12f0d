"""The operations port of a role: `/readyz` tells the truth, `/metrics` counts. Keep it private."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

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


def app(ready: Ready) -> Starlette:
    """The two routes."""

    async def readyz(request: Request) -> Response:
        try:
            await ready()
        except PinstreamError as exc:
            return JSONResponse({"ready": False, "reason": exc.reason, "hint": str(exc)}, 503)
        return JSONResponse({"ready": True})

    async def exposition(request: Request) -> Response:
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    return Starlette(routes=[Route("/readyz", readyz), Route("/metrics", exposition)])


@asynccontextmanager
async def serve(host: str, port: int, ready: Ready) -> AsyncIterator[None]:
    """Serve the operations port while the block runs. Raises SetupFault if the port is taken."""
    async with serving(app(ready), host, port):
        yield

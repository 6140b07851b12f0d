"""What one would write first in Python: Starlette and aiokafka, one acknowledged send a request.

Run by scripts/bench under uvicorn with httptools and uvloop. The environment: NAIVE_BOOTSTRAP, NAIVE_TOPIC.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiokafka import AIOKafkaProducer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TOPIC = os.environ.get("NAIVE_TOPIC", "")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The producer of this process."""
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["NAIVE_BOOTSTRAP"], acks="all", enable_idempotence=True, compression_type="lz4"
    )
    await producer.start()
    app.state.producer = producer
    try:
        yield
    finally:
        await producer.stop()


async def take(request: Request) -> Response:
    """Parse, add the time, send, wait for Kafka, answer."""
    try:
        event = orjson.loads(await request.body())
        visitor = event["visitor_id"]
    except (ValueError, KeyError, TypeError):
        return Response(status_code=400)
    event["received_at"] = time.time_ns() // 1_000_000
    await request.app.state.producer.send_and_wait(TOPIC, orjson.dumps(event), key=visitor.encode())
    return Response(status_code=204)


app = Starlette(routes=[Route("/p/i", take, methods=["POST"])], lifespan=lifespan)

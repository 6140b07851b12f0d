"""Which faults come when (pure, decided by a seed), and how each is done to the running parts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final, Literal, get_args

from msgspec import Struct

from loadtests.chaos.disk import Disk
from loadtests.chaos.parts import Collect, Kafka
from loadtests.chaos.proxy import Proxy

Kind = Literal[
    "collect_kill",
    "collect_stop",
    "kafka_stop",
    "kafka_kill",
    "kafka_freeze",
    "kafka_restart",
    "cut",
    "latency",
    "throttle",
    "half_open",
    "acks_lost",
    "disk_full",
]
"""collect_kill: SIGKILL, to a random worker where there are several. collect_stop: SIGTERM. Both are started again.
kafka_stop, kafka_kill, kafka_freeze: SIGTERM, SIGKILL, SIGSTOP, and back later. kafka_restart: stopped and started at
once. disk_full: the spool's disk is full while the network is cut. The others: `proxy.Toxic`."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

OF_COLLECT: Final = ("collect_kill", "collect_stop")
"""They come at any time, also while Kafka is away; the others one after the other."""
KAFKA_START_S: Final = 8.0
"""About how long Kafka takes to come back; collect's own faults are spread over this too."""
KAFKA_STARTS: Final = ("kafka_kill", "kafka_stop", "kafka_restart")
LONGER_S: Final = {"disk_full": 4.0}
"""Added to the length of some kinds: the spool is only written once an acknowledgement has been waited for."""
WEIGHTS: Final = {"collect_kill": 3}
"""Cards of a kind in the deck, else 1."""


class Fault(Struct, frozen=True):
    """One fault: when it begins, what it is, and how long it lasts."""

    at_s: float
    kind: Kind
    lasts_s: float

    @property
    def over_s(self) -> float:
        """When things are right again, about."""
        return self.at_s + self.lasts_s + (KAFKA_START_S if self.kind in KAFKA_STARTS else 0)


class Pace(Struct, frozen=True):
    """How quickly faults follow each other: bounds of each one's length, and of the pause before it."""

    lasts_s: tuple[float, float] = (1.0, 8.0)
    pause_s: tuple[float, float] = (1.0, 5.0)


QUICK: Final = Pace(lasts_s=(0.5, 1.5), pause_s=(0.3, 1.0))


def plan(count: int, seed: int, *, kinds: Sequence[Kind] = KINDS, pace: Pace = Pace()) -> list[Fault]:  # noqa: B008  frozen
    """`count` faults in order of time, their kinds dealt from a shuffled deck, which is dealt to its end each time.

    Collect's own are spread over the whole time; the others follow each other without overlap.
    """
    rng = random.Random(seed)
    deck: list[Kind] = []
    while len(deck) < count:
        cards = [kind for kind in kinds for _ in range(WEIGHTS.get(kind, 1))]
        rng.shuffle(cards)
        deck += cards
    faults, clock = [], 0.0
    for kind in deck[:count]:
        if kind not in OF_COLLECT:
            at_s, lasts_s = clock + rng.uniform(*pace.pause_s), rng.uniform(*pace.lasts_s) + LONGER_S.get(kind, 0)
            faults.append(Fault(at_s, kind, 0.0 if kind == "kafka_restart" else lasts_s))
            clock = faults[-1].over_s
    own = [kind for kind in deck[:count] if kind in OF_COLLECT]
    end_s = max(clock, len(own) * (pace.lasts_s[0] + pace.pause_s[1]))
    faults += [Fault(rng.uniform(0, end_s), kind, rng.uniform(0.1, 2.0)) for kind in own]
    return sorted(faults, key=lambda fault: fault.at_s)


class Parts(Struct, frozen=True):
    """What can be hurt."""

    collect: Collect
    kafka: Kafka
    proxy: Proxy
    disk: Disk


async def inflict(fault: Fault, parts: Parts) -> None:
    """Do it, wait as long as it lasts, and put things right again."""
    kind, kafka = fault.kind, parts.kafka
    if kind == "collect_kill":
        await parts.collect.kill(down_s=fault.lasts_s)
    elif kind == "collect_stop":
        await parts.collect.stop(down_s=fault.lasts_s)
    elif kind == "kafka_stop" or kind == "kafka_restart" or kind == "kafka_kill":  # KAFKA_STARTS, for mypy
        await (kafka.kill() if kind == "kafka_kill" else kafka.stop())
        await asyncio.sleep(fault.lasts_s)
        await kafka.start()
    elif kind == "kafka_freeze":
        kafka.freeze()
        await asyncio.sleep(fault.lasts_s)
        kafka.thaw()
    elif kind == "disk_full":
        await _disk_full(fault, parts)
    else:
        await parts.proxy.impose(kind)
        await asyncio.sleep(fault.lasts_s)
        await parts.proxy.heal()


async def _disk_full(fault: Fault, parts: Parts) -> None:
    await parts.proxy.impose("cut")
    parts.disk.fill()
    await asyncio.sleep(fault.lasts_s)
    parts.disk.relieve()
    await parts.proxy.heal()

"""From a difference to the calls that carry it out. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec import Struct

from pinstream.settings import Push
from pinstream.state.runs import MEMBER_BYTES, Operation, PlannedChunk

DISABLED: Final = "The audience is disabled: nobody but who withdrew is removed, and nobody is added."
"""What people should know of a sync of one."""


def chunks(run_id: int, operation: Operation, first: int, members: bytes, size: int) -> list[PlannedChunk]:
    """Cut `members` (32 bytes each, in order) into chunks of `size`, numbered from `first`.

    Equal arguments give equal keys, and a key belongs to exactly these members: run, number, operation, checksum.
    """
    step = size * MEMBER_BYTES
    return [
        _chunk(run_id, operation, first + index, members[at : at + step])
        for index, at in enumerate(range(0, len(members), step))
    ]


def _chunk(run_id: int, operation: Operation, number: int, members: bytes) -> PlannedChunk:
    checksum = hashlib.blake2b(members, digest_size=8).hexdigest()
    key = f"run{run_id}:{number}:{operation}:{checksum}"
    return PlannedChunk(key=key, number=number, operation=operation, members=members)


class Guard(Struct, frozen=True, kw_only=True):
    """When removals need a person's confirmation."""

    max_ratio: float
    """Share of the members that may go at once."""
    min_members: int
    """Smaller lists are never held back."""

    def holds(self, *, members: int, removes: int) -> bool:
        """Whether a run that removes `removes` of `members` must wait."""
        return members >= self.min_members and removes > self.max_ratio * members

    def held(self, *, members: int, removes: int, asked: int) -> int:
        """How many of `removes` must wait; the `asked` among them are people who want to go, and never wait."""
        return removes - asked if self.holds(members=members, removes=removes - asked) else 0

    def sentence(self, members: int, held: int, audience_id: int) -> str:
        """What to tell people when `held` of `members` wait."""
        return (
            f"{held:,} of {members:,} members ({held / members:.0%}) are to leave, push.max_remove_ratio allows "
            f"{self.max_ratio:.0%} at once: these removals wait, and so do additions; withdrawals do not. If it is "
            f"right, run `pinstream audiences sync {audience_id} --confirm-removals`; if not, mend the rule."
        )


def guard(config: Push) -> Guard:
    """The guard that the settings ask for."""
    return Guard(max_ratio=config.max_remove_ratio, min_members=config.max_remove_min_members)

"""Requests as raw bytes, and what must come of each, on whichever path answers.

One module a subject, each with its CASES by name. A case is small unless its size is the point, since most are also
sent byte by byte and cut in two at every byte.
"""

from __future__ import annotations

from tests.collect.corpus import bodies, chunks, foreign, heads, lengths, pipelines
from tests.collect.corpus.case import Case

MODULES = (heads, lengths, chunks, bodies, pipelines, foreign)

CASES: dict[str, Case] = {name: case for module in MODULES for name, case in module.CASES.items()}

OVERTAKES = "the refusal of what follows takes the place of answers that are still due"
SKIPPED = "the parser takes what follows an Upgrade for another protocol: the body is lost, or read as a request"

FAULTS: dict[tuple[str, str], str] = {
    **{
        ("starlette", name): OVERTAKES
        for name in (
            "shorter than the body",
            "size in no digits further on, behind an event",
            "size in no digits further on, on a cold route behind an event",
            "garbage behind an event",
            "garbage behind two events",
            "garbage behind a cold request",
            "a bad length behind an event",
            "a head too large behind an event",
            "an authority behind a cold request",
            "an authority behind an event",
        )
    },
    **{
        ("starlette", name): SKIPPED
        for name in (
            "a request behind a websocket",
            "an event that offers h2c",
            "an event in chunks that offers h2c",
            "events behind an offer of h2c",
            "a request in the body of an Upgrade",
            "an offer of h2c on a cold route",
            "an offer of h2c, and close",
            "an offer of h2c with a bad chunk",
            "an offer of h2c and Expect",
        )
    },
}
"""What is wrong now, by path and case: it leaves this table with its mend."""

"""Requests as raw bytes, and what must come of each, on whichever path answers.

One module a subject, each with its CASES by name. A case is small unless its size is the point, since most are also
sent byte by byte and cut in two at every byte.
"""

from __future__ import annotations

from tests.collect.corpus import bodies, chunks, foreign, heads, lengths, pipelines
from tests.collect.corpus.case import Case

MODULES = (heads, lengths, chunks, bodies, pipelines, foreign)

CASES: dict[str, Case] = {name: case for module in MODULES for name, case in module.CASES.items()}

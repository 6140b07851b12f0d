"""The files of the tag as pages load them: where they stand, how long they may be kept, and the hash that pins one.

They are built by `js/`, committed under `static/`, and held in memory. A page may load a script in two ways: by its
plain name (`/tag.js`, looked at again after five minutes, so that an upgrade reaches it), or pinned by
`integrity="sha384-..."` under a name that holds its hash (`/tag.<hash>.js`, never changes). What was ever pinned here
is kept in the data folder and goes on being served: an upgrade must not silence a page that pinned the version before.
"""

from __future__ import annotations

import gzip
import logging
import os
import posixpath
import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha384
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request

from pinstream.collect.answer import Answer
from pinstream.collect.popular import PATH as POPULAR
from pinstream.errors import Misconfigured

logger = logging.getLogger(__name__)

CACHE_S: Final = 300
PINNED_S: Final = 365 * 86_400
MAX_KEPT: Final = 50  # pinned versions of a script that are served besides the present one; the newest
SCRIPT: Final = "tag.js"
PINNABLE: Final = (SCRIPT, "mirror.js", "badge.js")
"""Scripts that pages embed; the others are loaded by these, or on top of them."""
ENDPOINT: Final = b'"p/i"'
"""How the built scripts that send spell the endpoint: relative to their own address, exactly once."""
ASKED: Final = b'"v1/popular"'
"""How badge.js spells where it asks, in the same way."""
NOT_SERVED: Final = ("stub.js",)
"""What only `snippet.py` puts into pages."""

_TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".ts": "text/plain", ".mts": "text/plain"}
_PINNED: Final = re.compile(r"[\w-]+\.([0-9a-f]{16})\.js")


class TagFile(NamedTuple):
    """A file as it is sent."""

    body: bytes
    media_type: str
    pinned: bool = False
    """Under this name it never changes."""

    @property
    def integrity(self) -> str:
        """What a page writes into `integrity="..."`."""
        return f"sha384-{b64encode(sha384(self.body).digest()).decode()}"

    @property
    def short_hash(self) -> str:
        """What stands in a pinned name."""
        return sha384(self.body).hexdigest()[:16]


class TagFiles:
    """All of them, by path."""

    def __init__(self, script_path: str, endpoint_path: str, keep: Path | None = None) -> None:
        """`script_path`: where tag.js stands, the others beside it. `keep`: folder of the pinned versions.

        Where `script_path` is not the default, the default paths are served as well: pages may still have them.
        """
        self._built = {name: file.read_bytes() for name, file in _walk(resources.files(__package__) / "static")}
        self.script_path = script_path
        self.endpoint_path = endpoint_path
        self.paths: dict[str, TagFile] = {}
        for script in dict.fromkeys((f"/{SCRIPT}", script_path)):
            self._place(script, endpoint_path)
        if keep:
            self._keep(keep)

    def _place(self, script_path: str, endpoint_path: str) -> None:
        folder, script = posixpath.split(script_path)
        if script != SCRIPT and script in self._built:
            raise Misconfigured(f"collect.script_path: {script} is the name of another of the tag's files.")
        endpoint, asked = (f'"{posixpath.relpath(to, folder)}"'.encode() for to in (endpoint_path, POPULAR))
        for name, body in self._built.items():
            moved = body.replace(ENDPOINT, endpoint).replace(ASKED, asked)
            file = TagFile(moved, _TYPES[posixpath.splitext(name)[1]])
            path = script_path if name == SCRIPT else posixpath.join(folder, name)
            self.paths[path] = file
            if name in PINNABLE:
                self.paths[pinned_path(path, file)] = file._replace(pinned=True)

    def _keep(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, file in self.paths.items():
                kept = folder / posixpath.basename(path)
                if file.pinned and not kept.exists():
                    draft = kept.with_name(f"{kept.name}.{os.getpid()}")  # other workers do the same at the same time
                    draft.write_bytes(file.body)
                    draft.replace(kept)
            earlier = sorted(folder.glob("*.js"), key=lambda kept: kept.stat().st_mtime, reverse=True)
            for kept in earlier[:MAX_KEPT]:
                self._offer(kept)
        except OSError as exc:
            logger.warning("Pages that pinned an earlier version of the tag get none: %s", exc)

    def _offer(self, kept: Path) -> None:
        file = TagFile(kept.read_bytes(), _TYPES[".js"], pinned=True)
        found = _PINNED.fullmatch(kept.name)
        if not found or found[1] != file.short_hash:
            logger.warning("%s is not what its name says; it is not served.", kept)
            return
        for folder in {"/", posixpath.dirname(self.script_path)}:
            self.paths.setdefault(posixpath.join(folder, kept.name), file)

    def beside(self, name: str) -> str:
        """The path of another of the files."""
        return posixpath.join(posixpath.dirname(self.script_path), name)

    def script(self) -> TagFile:
        """The tag itself, as it is at `script_path`."""
        return self.paths[self.script_path]


def pinned_path(path: str, file: TagFile) -> str:
    """`/tag.js` -> `/tag.<hash>.js`."""
    stem, suffix = posixpath.splitext(path)
    return f"{stem}.{file.short_hash}{suffix}"


class Offer:
    """Answers GET and HEAD for one file."""

    def __init__(self, file: TagFile) -> None:
        self._plain = file.body
        self._gzipped = gzip.compress(file.body, 9, mtime=0)
        self._tag = file.short_hash
        age = f"max-age={PINNED_S}, immutable" if file.pinned else f"max-age={CACHE_S}"
        self._headers = [("Cache-Control", f"public, {age}"), ("Vary", "Accept-Encoding")]
        self._type = ("Content-Type", f"{file.media_type}; charset=utf-8")

    async def answer(self, request: Request) -> Answer:
        """The file, gzipped for whoever takes that; 304 if the browser has it. Any page may read it."""
        zipped = "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{self._tag}-gzip"' if zipped else f'"{self._tag}"'
        headers = [("ETag", etag), *self._headers]
        if etag in request.headers.get("if-none-match", ""):
            return Answer(304, headers, mirror=False)
        if zipped:
            return Answer(200, [*headers, self._type, ("Content-Encoding", "gzip")], self._gzipped, mirror=False)
        return Answer(200, [*headers, self._type], self._plain, mirror=False)


def free_of(taken: set[str], *paths: str) -> None:
    """Raise Misconfigured if one of `paths` means something else already."""
    for path in paths:
        if path in taken or path.startswith(("/v1/", "/v3")):
            raise Misconfigured(
                f"{path} is taken: collect.script_path and collect.endpoint_path need paths of their own."
            )


def _walk(folder: Traversable, under: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{under}{entry.name}/")
        elif entry.name not in NOT_SERVED and posixpath.splitext(entry.name)[1] in _TYPES:
            yield f"{under}{entry.name}", entry

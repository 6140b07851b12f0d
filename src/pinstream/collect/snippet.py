"""Pure: what a shop puts into its pages so that the tag runs there, for each platform, and what its policy must allow.

The texts are files under `snippets/`; what stands in double braces is filled in here.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources
from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from pinstream.collect.tagfiles import TagFiles, pinned_path
from pinstream.errors import Misconfigured
from pinstream.state.snapshot import Site

PLATFORMS: Final = {
    "html": ("html.html", "In the head of every page, before anything that calls pintrk."),
    "html-csp": ("html-csp.html", "In the head of every page; nothing inline, for strict policies."),
    "image": ("image.html", "In the body of pages, for visitors without JavaScript."),
    "mirror": ("mirror.html", "In the head, behind Pinterest's own tag, which stays."),
    "gtm": ("gtm.tpl", "Tag Manager: Templates > Tag Templates > New > Import. Save the text as template.tpl."),
    "shopify": ("shopify.js", "Shopify: Settings > Customer events > Add custom pixel."),
    "woocommerce": ("woocommerce.php", "WordPress: wp-content/mu-plugins/pinstream.php."),
    "magento": ("magento.txt", "Magento 2: a small module."),
    "react": ("react.txt", "React: in the app's source."),
    "vue": ("vue.txt", "Vue: in the app's source."),
}
"""Platform -> its file, and where the text goes."""

_ASK_BY_THEMSELVES: Final = ("image", "shopify", "woocommerce")
"""Platforms whose text asks for consent where the shop has the answer; the image is for shops that have it."""
_IN_PAGES: Final = ("html", "html-csp", "mirror")
"""Platforms whose script's element stands in the page's own source."""

_URL: Final = re.compile(r"https?://(?:[a-z0-9.-]{1,253}|\[[0-9a-f:]{2,39}\])(?::\d{1,5})?(?:/[A-Za-z0-9._~/-]*)?")
_INLINE: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_GAP: Final = re.compile(r"\{\{(\w+)\}\}")


class Snippet(Struct, frozen=True, kw_only=True):
    """What to paste, and what goes with it."""

    site: str
    platform: str
    where: str
    text: str
    script_url: str
    pinned_url: str
    """The same script under a name that never changes."""
    integrity: str
    """Its hash, for `integrity="..."`."""
    pinned: str
    """A script element that loads this version and no other, to stand where the text's stands; empty: there is none."""
    csp: dict[str, list[str]]
    """Directive -> what the shop's Content-Security-Policy must allow besides what it allows now."""
    notes: list[str]
    """What would keep events of this site from arriving."""


def snippet(site: Site, platform: str, url: str, files: TagFiles) -> Snippet:
    """The text for `platform`. `url`: where browsers reach `collect`, with the path that a proxy puts before it.

    Raises:
        Misconfigured: `url` is none.
    """
    folder = url.rstrip("/")
    if not _URL.fullmatch(folder):
        raise Misconfigured(f"{url} is no address for a page. Such as https://t.shop.example, without ? and #.")
    file, where = PLATFORMS[platform]
    script = files.script_path
    embedded = files.beside("mirror.js") if platform == "mirror" else script
    pinned = f"{folder}{pinned_path(embedded, files.paths[embedded])}"
    integrity = files.paths[embedded].integrity
    attributes = _attributes(site)
    consent = attributes.replace(' data-pagevisit="true"', "")
    said = consent if platform == "mirror" else attributes
    text = _filled(
        _text(f"snippets/{file}"),
        {
            "site": site.tag_id,
            "script": f"{folder}{script}",
            "mirror": f"{folder}{embedded}",
            "folder": f"{folder}{script.rpartition('/')[0]}",
            "endpoint": f"{folder}{files.endpoint_path}",
            "host": urlsplit(folder).netloc,
            "options": _options(site),
            "attributes": attributes,
            "consent": consent,
            "said": "".join(f"\n    {key}: {json.dumps(value)}," for key, value in _said(site).items()),
            "props": _props(site),
            "fields": _fields(site),
            "image": f"{folder}/v3/?tid={quote(site.tag_id)}&amp;event=pagevisit&amp;consent=yes&amp;noscript=1",
        },
    )
    return Snippet(
        site=site.tag_id,
        platform=platform,
        where=where,
        text=text,
        script_url=f"{folder}{embedded}",
        pinned_url=pinned,
        integrity=integrity,
        pinned=f'<script async src="{pinned}" integrity="{integrity}" crossorigin="anonymous" '
        f'data-site="{site.tag_id}"{said}></script>'
        if platform in _IN_PAGES
        else "",
        csp=_csp(text if file.endswith(".html") else "", folder),
        notes=_notes(site, platform, folder),
    )


def _attributes(site: Site) -> str:
    """What the site's settings say, as attributes of a script element; the same as the server goes by."""
    consent = f' data-consent="{site.consent_default}"' if site.consent_default != "unknown" else ""
    overrides = ' data-explicit_yes_overrides_gpc="true"' if site.explicit_yes_overrides_gpc else ""
    return f' data-pagevisit="true"{consent}{overrides}'


def _said(site: Site) -> dict[str, str | bool]:
    said: dict[str, str | bool] = {}
    if site.consent_default != "unknown":
        said["consent"] = site.consent_default
    if site.explicit_yes_overrides_gpc:
        said["explicit_yes_overrides_gpc"] = True
    return said


def _options(site: Site) -> str:
    pairs = ", ".join(f"{key}: {json.dumps(value)}" for key, value in ({"pagevisit": True} | _said(site)).items())
    return f"{{{pairs}}}"


def _props(site: Site) -> str:
    return "".join(f" {key}" + ("" if value is True else f'="{value}"') for key, value in _said(site).items())


def _fields(site: Site) -> str:
    return "".join(f", {key}: {json.dumps(value)}" for key, value in _said(site).items())


def _csp(text: str, folder: str) -> dict[str, list[str]]:
    parts = urlsplit(folder)
    origin = f"{parts.scheme}://{parts.netloc}"
    inline = [f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'" for code in _INLINE.findall(text)]
    return {"script-src": [*inline, origin], "connect-src": [origin], "img-src": [origin]}


def _notes(site: Site, platform: str, folder: str) -> list[str]:
    notes = []
    if site.consent_default == "unknown" and platform not in _ASK_BY_THEMSELVES:
        notes.append(
            'Nothing is sent before a yes: call pintrk("setconsent", true) on every page, from what your banner has '
            "stored, or add an adapter (docs/tag.md, Consent)."
        )
    if platform == "shopify" and not site.allow_null_origin:
        notes.append(
            f"Site {site.tag_id} refuses `Origin: null`, which is what Shopify's sandbox sends. Use a site of its own "
            "for the pixel: `pinstream sites add --null-origin ...`."
        )
    if platform == "image" and not site.allow_no_origin:
        notes.append(f"Site {site.tag_id} refuses requests without an Origin, and images send none.")
    if urlsplit(folder).scheme == "http" and urlsplit(folder).hostname not in ("127.0.0.1", "localhost", "::1"):
        notes.append("Over http browsers hash nothing, keep no visitor's cookie, and pages over https load no script.")
    return notes


def _filled(text: str, values: dict[str, str]) -> str:
    """`text` with its gaps filled: by a value, else by the built file of that name."""

    def value(gap: re.Match[str]) -> str:
        name = gap[1]
        return values[name] if name in values else _filled(_text(f"static/{name}.js").strip(), values)

    return _GAP.sub(value, text)


def _text(path: str) -> str:
    return resources.files("pinstream.collect").joinpath(path).read_text()

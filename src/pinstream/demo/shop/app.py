"""The shop's pages. It keeps nothing: cart and last order are cookies, and e-mails go nowhere but to the tag."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pinstream.demo.shop import cart as carts
from pinstream.demo.shop import catalogue
from pinstream.serving import serving

HERE: Final = Path(__file__).parent
MAX_QUERY_CHARS: Final = 100
MAX_EMAIL_CHARS: Final = 254
MAX_FORM_BYTES: Final = 4096

_ORDER = re.compile(r"(FC-[0-9A-F]{8})\|(.{1,400})")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")

Tracked = tuple[str, dict[str, Any]]
"""An event that a page sends when it is opened: name and data for `pintrk("track", ...)`."""


def app(collector_url: str, tag_id: str) -> Starlette:
    """The shop, whose pages load the tag from `collector_url` and send events of `tag_id`."""
    shop = Shop(collector_url, tag_id)
    return Starlette(
        routes=[
            Route("/", shop.home),
            Route("/c/{category}", shop.category),
            Route("/p/{product}", shop.product),
            Route("/search", shop.search),
            Route("/cart", shop.cart),
            Route("/cart", shop.change_cart, methods=["POST"]),
            Route("/checkout", shop.checkout),
            Route("/checkout", shop.order, methods=["POST"]),
            Route("/thanks", shop.thanks),
            Route("/newsletter", shop.subscribe, methods=["POST"]),
            Route("/healthz", shop.healthz),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers={HTTPException: shop.fault},  # type: ignore[dict-item]  # narrower than Exception
    )


@asynccontextmanager
async def serve(host: str, port: int, collector_url: str, tag_id: str) -> AsyncIterator[int]:
    """Serve the shop while the block runs; gives the port. Raises SetupFault if the port is taken."""
    async with serving(app(collector_url, tag_id), host, port) as taken:
        yield taken


class Shop:
    """One shop: its templates, and where its tag comes from."""

    def __init__(self, collector_url: str, tag_id: str) -> None:
        self._collector = "{0.scheme}://{0.netloc}".format(urlsplit(collector_url))
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters["money"] = money
        self._templates.globals.update(
            brand=catalogue.BRAND,
            categories=catalogue.CATEGORIES,
            currency=catalogue.CURRENCY,
            max_quantity=carts.MAX_QUANTITY,
            max_query=MAX_QUERY_CHARS,
            max_email=MAX_EMAIL_CHARS,
            line_item=carts.line_item,
            tag_url=f"{collector_url.rstrip('/')}/tag.js",
            badge_url=f"{collector_url.rstrip('/')}/badge.js",
            tag_id=tag_id,
        )

    async def home(self, request: Request) -> Response:
        products = list(catalogue.PRODUCTS.values())
        return self._page(request, "home.html", ("pagevisit", {}), products=products)

    async def category(self, request: Request) -> Response:
        slug = request.path_params["category"]
        name = catalogue.CATEGORIES.get(slug) or _not_found("No such shelf in this shop.")
        products = catalogue.in_category(slug)
        items = [carts.line_item(product) for product in products]
        tracked = ("viewcategory", {"product_category": name, "line_items": items})
        return self._page(request, "category.html", tracked, name=name, slug=slug, products=products)

    async def product(self, request: Request) -> Response:
        product = catalogue.PRODUCTS.get(request.path_params["product"]) or _not_found("We do not sell that.")
        tracked = ("pagevisit", carts.event_data({product.id: 1}))
        others = [each for each in catalogue.in_category(product.category) if each is not product]
        return self._page(request, "product.html", tracked, product=product, others=others)

    async def search(self, request: Request) -> Response:
        query = request.query_params.get("q", "").strip()[:MAX_QUERY_CHARS]
        tracked = ("search", {"search_query": query}) if query else None
        return self._page(request, "search.html", tracked, query=query, products=catalogue.found(query))

    async def cart(self, request: Request) -> Response:
        return self._page(request, "cart.html", ("pagevisit", {}), lines=_lines(_cart(request)))

    async def change_cart(self, request: Request) -> Response:
        """Adds a product; where the form says so, sets its quantity (`set`) or takes it out (`remove`)."""
        form = await _form(request)
        product_id = form.get("product", "")
        if product_id not in catalogue.PRODUCTS:
            _not_found("We do not sell that.")
        cart = _cart(request)
        before = 0 if "set" in form else cart.get(product_id, 0)
        quantity = 0 if "remove" in form else before + _quantity(form.get("quantity", ""))
        answer = RedirectResponse("/cart", 303)
        _remember(answer, "cart", carts.dump(carts.with_quantity(cart, product_id, quantity)))
        return answer

    async def checkout(self, request: Request) -> Response:
        cart = _cart(request)
        if not cart:
            return RedirectResponse("/cart", 303)
        tracked = ("initiatecheckout", carts.event_data(cart))
        return self._page(request, "checkout.html", tracked, lines=_lines(cart), total=carts.total_cents(cart))

    async def order(self, request: Request) -> Response:
        form = await _form(request)
        cart = _cart(request)
        if not cart:
            return RedirectResponse("/cart", 303)
        if not _is_email(form.get("email", "")):
            raise HTTPException(400, "We need an e-mail address for the receipt. Please go back and fill it in.")
        answer = RedirectResponse("/thanks", 303)
        _remember(answer, "order", f"FC-{secrets.token_hex(4).upper()}|{carts.dump(cart)}")
        answer.delete_cookie("cart")
        return answer

    async def thanks(self, request: Request) -> Response:
        """The order's page. Opened twice it sends the same event id, so the order counts once."""
        known = _ORDER.fullmatch(request.cookies.get("order", ""))
        cart = carts.parse(known[2]) if known else {}
        if not known or not cart:
            return RedirectResponse("/", 303)
        tracked = ("checkout", {"event_id": f"order-{known[1]}", "order_id": known[1], **carts.event_data(cart)})
        lines, total = _lines(cart), carts.total_cents(cart)
        return self._page(request, "thanks.html", tracked, order_id=known[1], lines=lines, total=total)

    async def subscribe(self, request: Request) -> Response:
        form = await _form(request)
        if not _is_email(form.get("email", "")):
            raise HTTPException(400, "That does not look like an e-mail address. Please go back and try again.")
        return RedirectResponse("/?subscribed=1#newsletter", 303)

    async def healthz(self, request: Request) -> Response:
        return Response("ok", media_type="text/plain")

    async def fault(self, request: Request, exc: HTTPException) -> Response:
        return self._page(request, "fault.html", None, status=exc.status_code, detail=exc.detail)

    def _page(
        self, request: Request, template: str, tracked: Tracked | None, *, status: int = 200, **context: Any
    ) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = self._templates.get_template(template).render(
            context,
            tracked=tracked,
            nonce=nonce,
            status=status,
            cart_count=sum(_cart(request).values()),
            subscribed="subscribed" in request.query_params,
        )
        return HTMLResponse(text, status, {"Cache-Control": "no-store", "Content-Security-Policy": self._policy(nonce)})

    def _policy(self, nonce: str) -> str:
        """What a storefront with a strict policy has to allow for the tag: its script, and its requests."""
        return (
            f"default-src 'self'; script-src 'self' 'nonce-{nonce}' {self._collector}; "
            f"connect-src 'self' {self._collector}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )


def money(cents: int) -> str:
    """`1850` -> `€18.50`."""
    return f"€{cents / 100:,.2f}"


def _not_found(detail: str) -> NoReturn:
    raise HTTPException(404, detail)


def _cart(request: Request) -> carts.Cart:
    return carts.parse(request.cookies.get("cart", ""))


def _lines(cart: carts.Cart) -> list[tuple[catalogue.Product, int]]:
    return [(catalogue.PRODUCTS[product_id], quantity) for product_id, quantity in cart.items()]


def _remember(answer: Response, name: str, value: str) -> None:
    answer.set_cookie(name, value, max_age=7 * 86_400, httponly=True, samesite="lax")


def _quantity(text: str) -> int:
    return min(int(text), carts.MAX_QUANTITY) if re.fullmatch(r"\d{1,3}", text, re.ASCII) else 1


def _is_email(text: str) -> bool:
    return len(text) <= MAX_EMAIL_CHARS and bool(_EMAIL.fullmatch(text.strip()))


async def _form(request: Request) -> dict[str, str]:
    """The fields of a posted form, the first value of each. 413 past MAX_FORM_BYTES."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "That is more than this form can hold.")
    fields = parse_qs(body.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}

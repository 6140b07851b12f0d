"""What the demo shop sells, and how it is found."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

CURRENCY: Final = "EUR"
BRAND: Final = "Fern & Clay"


class Product(Struct, frozen=True):
    """One thing to buy. `id` is also the name of its picture and part of its address."""

    id: str
    name: str
    category: str
    price_cents: int
    text: str


CATEGORIES: Final = {
    "ceramics": "Ceramics",
    "textiles": "Textiles",
    "plants": "Plants",
    "light": "Light",
}

PRODUCTS: Final = {
    product.id: product
    for product in (
        Product("mug", "Morning mug", "ceramics", 1850, "Stoneware, 300 ml, glazed by hand in oat and rust."),
        Product("vase", "Tall vase", "ceramics", 4200, "A slim neck for three stems, or none at all. 28 cm."),
        Product("bowl", "Salad bowl", "ceramics", 3400, "Wide and low, with a speckled glaze. For four."),
        Product("cushion", "Linen cushion", "textiles", 3900, "Washed linen, 45 cm, with a feather filling."),
        Product("throw", "Wool throw", "textiles", 8900, "Soft lambswool from one mill, 130 by 180 cm."),
        Product("towel", "Waffle towel", "textiles", 2200, "Organic cotton that dries before you are out the door."),
        Product("monstera", "Monstera", "plants", 2950, "Young plant, 50 cm, in a 17 cm pot. Likes bright shade."),
        Product("cactus", "Column cactus", "plants", 1600, "Forgives almost everything. 25 cm."),
        Product("can", "Watering can", "plants", 3200, "Powder-coated steel, 1.5 l, with a long spout."),
        Product("lamp", "Paper lamp", "light", 6900, "A warm table light of folded paper and ash."),
        Product("candle", "Beeswax candle", "light", 1250, "Burns for 24 hours and smells of a meadow."),
        Product("lantern", "Garden lantern", "light", 4500, "Iron and glass, for tea lights, safe in the rain."),
    )
}


def in_category(category: str) -> list[Product]:
    """Its products, in the catalogue's order."""
    return [product for product in PRODUCTS.values() if product.category == category]


def found(query: str) -> list[Product]:
    """Products whose name, category or text holds every word of the query."""
    words = query.casefold().split()
    if not words:
        return []
    return [product for product in PRODUCTS.values() if all(word in _searchable(product) for word in words)]


def _searchable(product: Product) -> str:
    return f"{product.name} {CATEGORIES[product.category]} {product.text}".casefold()

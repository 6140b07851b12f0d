"""Ready-made rules."""

from __future__ import annotations

from pinstream.audiences.rule import Did, Rule, checked


def cart_abandoned(*, within_days: int = 7, quiet_for_min: int = 60) -> Rule:
    """Put something in the cart or began to pay within the last days, and placed no order since those days began."""
    began = Did(events=("initiate_checkout", "add_to_cart"), within_days=within_days)
    ordered = Did(events=("checkout",), within_days=within_days)
    return checked(Rule(all=(began,), none=(ordered,), quiet_for_min=quiet_for_min))

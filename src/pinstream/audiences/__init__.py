"""Audiences: why somebody is in (`rule.py`, `templates.py`), who that is (`compile.py`, pure), and who Pinterest has
already (`membership.py`)."""

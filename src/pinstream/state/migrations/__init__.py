"""Alembic's environment and the numbered steps of the control plane's schema. A released step is never edited."""

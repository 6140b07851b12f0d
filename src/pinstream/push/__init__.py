"""Audiences -> Pinterest: `plan.py` cuts a difference into calls (pure), `ledger.py` keeps what was sent,
`sync.py` carries it out. And `popular.py`: what is popular on Pinterest -> the state."""

"""Traffic for a server that runs, and the truth about what became of it. See README.md.

ledger.py       pure: requests, what an answer says, and whether that was expected
traffic.py      pure but for the dice: what visitors, bad clients and servers send
locustfile.py   the users, for locust
smoke.py        a private stack, the users, and ClickHouse against their ledger
"""

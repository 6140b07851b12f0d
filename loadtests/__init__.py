"""Load on a server that runs, and the truth about what became of it. README.md tells how to use it.

locustfile.py   users for locust: scripts/loadtest, or an operator's own server
traffic.py      pure but for the dice: what visitors, bad clients and servers send
ledger.py       pure: requests, what an answer says, and whether that was expected
truth.py        what they were told, and what ClickHouse holds of it
smoke.py        scripts/loadtest: a private stack, those users, and the truth at the end

bench/  peers/  scripts/bench: collect beside its peers
chaos/          scripts/chaos: what was answered, whatever is killed
"""

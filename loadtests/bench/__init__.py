"""`scripts/bench`: how fast `collect` is beside its peers, what it does past its limit, and where its time goes.

__main__.py   the command line
collect.py    ours and its peers in turn, under wrk; every count checked in Kafka
overload.py   three times the knee, from an open loop
profile.py    ours under wrk, sampled by py-spy
servers.py    the processes that are measured
wrk.py  wrk.lua  openloop.py      the two load generators
traffic.py    the requests
broker.py  processes.py  parts.py      Kafka; pinned processes and what they cost; what must be installed
report.py     pure: medians, ratios, verdicts, and the tables of docs/benchmarks.md
"""

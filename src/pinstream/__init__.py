"""pinstream: what happens in a shop becomes Pinterest audiences. A map of the rooms, in the order of the flow.

    cli.py          the command line (also `__main__.py`); nobody imports it
    commands/       groups of commands, and what they share: tables, JSON, log lines
    roles.py        composition: settings -> resources -> one role
    supervisor.py   several processes under one: prefixed logs, restarts, replacement, orderly end
    doctor.py       what is broken on this machine, and how to mend it

    clock.py  event.py  errors.py  settings.py  metrics.py   the vocabulary; imports nothing above it
    serving.py  ops.py                                HTTP servers inside a role; its operations port

    collect/        1  HTTP in, durable answer out
    eventlog/       2  Kafka, or the journal: one contract
    load/           3  log -> ClickHouse, exactly once
    warehouse/         ClickHouse's client, the embedded engine, the schema
    audiences/      4  rule -> SQL -> members
    pinterest/         Pinterest's API, and a fake of it
    push/           5  members -> Pinterest's customer lists
    forward/           events -> Conversions API (later)
    state/             control-plane data: sites, keys, audiences, ledger
    privacy/           who asked to be erased
    history/           what was before: files of orders, events and people
    console/        6  admin API; web UI (later)
    demo/              a shop, its shoppers, and all of the above on one machine

Imports point down: vocabulary <- serving <- ops <- eventlog, warehouse, pinterest, state <- audiences, privacy
<- collect, load, push, forward <- history <- console <- roles <- demo, doctor <- commands <- cli. Stages never
import each other: they meet on the event, the log and the tables. tests/test_architecture.py holds this.
"""

__version__ = "0.1.0"

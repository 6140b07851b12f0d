"""What `scripts/chaos` runs: load on a real `collect`, faults at random moments, and then every event counted.

ledger.py    what each event was answered, and the comparison with what is in the log afterwards
sender.py    the load: kept-alive connections, bounded rate, one answer an event into the ledger
faults.py    which faults come when (pure, by a seed), and how each is done
parts.py     the processes: Kafka and `collect`, which is started again whenever it dies
proxy.py     the network between them, which can be cut, slowed and made to swallow
disk.py      the spool's disk, which can be filled
readback.py  all of Kafka from its beginning, and what the spool still holds
run.py       one run from its first process to its verdict; `__main__.py` is the command line
"""

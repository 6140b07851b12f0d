"""The control plane: sites, keys, audiences, connections and the push ledger, in SQLite or PostgreSQL.

`snapshot.py` is the value `collect` holds, `store.py` the way in, `ledger.py` what push did and must still do,
`database.py` the engine and its migrations, `tables.py` the tables. Nobody else imports SQLAlchemy or Alembic.
"""

"""Pinterest's API v5: what we ask of it, and a fake of it to test against.

client       the calls: token, pace, retries, errors; only importer of httpx here
lists        customer lists, the sets of hashed members
audiences    audiences built on them
types        what Pinterest answers
fake         a Pinterest of our own, checked against Pinterest's description in openapi/; fakeworld is its memory
"""

"""`python -m pinstream`."""

from pinstream.cli import main

main()

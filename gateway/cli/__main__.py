"""`python -m gateway.cli` is the command `creditgate`."""

from gateway.cli import main

main()

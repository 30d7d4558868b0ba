"""`python -m tierd` is the same as the console script."""

from tierd.cli import main

main()

"""`python -m adaloc`."""

from adaloc.cli import main

main()

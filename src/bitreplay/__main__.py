"""``python -m bitreplay`` is the command line."""

from .cli import main

main()

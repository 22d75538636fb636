"""``python -m bitreplay.cli`` is the command line, too."""

from . import main

main()

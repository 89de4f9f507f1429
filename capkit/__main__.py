"""``python -m capkit`` is ``capkit``."""

from capkit.cli import main

main(prog_name="capkit")

"""The command line; what its commands do is in :mod:`capkit.commands`."""

from capkit.cli.app import main

__all__ = ["main"]

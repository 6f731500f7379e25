"""Floor 7: the command line. Nothing heavy is imported before a command runs."""

from labelwise.cli.app import main

__all__ = ["main"]

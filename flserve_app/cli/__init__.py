"""The command line, `flserve`."""

from flserve_app.cli.app import app, main

__all__ = ["app", "main"]

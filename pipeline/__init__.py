"""Puts the steps together; the only place that sees a command line."""

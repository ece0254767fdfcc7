"""Utilities of all commands: flags, processes, files, logs, compilation counts, HTML, chat endpoints."""

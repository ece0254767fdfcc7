"""Experiment configs: `get_config()` of each file returns the defaults of `base.py` with its changes."""

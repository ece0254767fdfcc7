"""One file an experiment: `get_config()` gives the defaults of `base.py` with what differs."""

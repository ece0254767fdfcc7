"""Records: the common format of all data sources, and its storage on disk."""

from perl_jax.records.record import KINDS, ORDER_EFFECTS, Record, validate
from perl_jax.records.storage import Split, fingerprint, open_split, splits, summary, write

__all__ = [
    "KINDS",
    "ORDER_EFFECTS",
    "Record",
    "Split",
    "fingerprint",
    "open_split",
    "splits",
    "summary",
    "validate",
    "write",
]

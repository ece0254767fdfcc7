"""Data curation, from a source's raw rows to records: checkability, image references, and filter rules."""

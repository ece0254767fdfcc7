"""From a source's plain rows to records: what can be checked, what points at images, which rows are left out."""

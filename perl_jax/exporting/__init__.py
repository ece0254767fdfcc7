"""Files exported beside the weights: model card, provenance, usage snippets."""

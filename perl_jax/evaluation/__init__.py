"""Evaluation of a model on published benchmarks and record sets (`perl_jax.evaluate`), with permuted image orders."""

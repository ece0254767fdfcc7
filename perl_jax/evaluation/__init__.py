"""Evaluation: held-out questions inside a run, and published benchmarks from a command (`perl_jax.evaluate`)."""

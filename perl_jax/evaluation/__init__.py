"""Published benchmarks and record sets asked of a model (`perl_jax.evaluate`): orders, responses, scores, figures."""

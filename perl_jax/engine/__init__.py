"""Shared by sampler, update and planner: row packing, image embeddings, token sampling, FLOP counts."""

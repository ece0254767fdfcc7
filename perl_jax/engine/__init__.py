"""What sampler, update and planner compute with: packed rows, image embeddings, the draw of a token, FLOPs."""

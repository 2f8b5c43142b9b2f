"""Training: the loop on any strategy, and its checkpoints."""

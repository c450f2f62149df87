"""Where a model recalls a fact, by causal tracing, and whether that tells where to edit it."""

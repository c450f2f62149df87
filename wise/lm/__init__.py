"""Everything that touches a Hugging Face causal language model, and nothing else does."""

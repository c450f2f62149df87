"""The only code that touches a Hugging Face causal language model."""

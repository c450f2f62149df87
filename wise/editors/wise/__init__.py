"""WISE (Wang et al., NeurIPS 2024, arXiv 2405.14768)."""

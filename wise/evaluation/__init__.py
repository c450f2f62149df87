"""What an editor did to a model: per-item measures, and the lifelong run that collects them."""

"""What an editor did to a model: measures per item, and the lifelong run that collects them."""

"""Tables to figures: a function draws one table on one given Axes, and computes nothing."""

"""Tables and figures to the sections of a page, each with one sentence on what it shows."""

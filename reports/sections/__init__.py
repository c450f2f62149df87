"""Tables and figures to sections: what stands on a page, each with one sentence of what is seen."""

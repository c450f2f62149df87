"""Long jobs: ledgers of what is done, and grids of independent cells; both know no model."""

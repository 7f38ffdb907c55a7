"""Pure functions over finished trials: Pareto fronts, hypervolume and statistics of a design space."""

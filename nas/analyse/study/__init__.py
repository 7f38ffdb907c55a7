"""One study's trials looked at: fronts, course, cost, the choices of the design space and what they do. Pure functions."""

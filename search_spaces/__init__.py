"""The design spaces that a search can explore: one module per family, each standing on torch alone."""

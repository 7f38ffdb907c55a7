"""Suggests candidates by a model of what is known: the one that is expected to add most to the front."""

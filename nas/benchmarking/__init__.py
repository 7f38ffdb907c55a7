"""Measuring a list of networks: which they are, each in a process of its own, and the table of what was found."""

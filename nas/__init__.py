"""Hardware-aware search for networks: measure on the device, train briefly, keep the best trade-offs."""

__version__ = "0.1.0"

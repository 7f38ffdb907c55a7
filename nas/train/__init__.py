"""Data on the device, and the training of one network by a recipe; knows nothing of searching or measuring."""

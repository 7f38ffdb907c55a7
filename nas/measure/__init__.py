"""What a network costs: operations, latency, energy and memory; knows nothing of searching or training."""

"""Timing against PyTorch: the same work, the same weights, alternating in one process."""

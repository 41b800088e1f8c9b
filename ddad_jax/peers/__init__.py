"""Timing against PyTorch: the same work with the same weights, in turns."""

"""Training: one loop on a device mesh, and the three objectives."""

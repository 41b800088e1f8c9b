"""Noise schedules and the conditioned sampler: pure mathematics on arrays."""

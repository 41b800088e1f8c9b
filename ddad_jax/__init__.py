"""Diffusion-based anomaly detection with a dynamic noise level (D3AD) and DDAD, in JAX."""

__version__ = "0.1.0"

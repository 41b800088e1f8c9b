"""Detectors over HTTP: `--mode=serve`."""

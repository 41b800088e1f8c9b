"""Experiments, one a file, each derived from `default`."""

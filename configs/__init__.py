"""Configs of experiments, one per file, each derived from `default`."""

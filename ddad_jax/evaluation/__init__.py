"""Measures how good a detector is, in metrics, tables and pictures."""

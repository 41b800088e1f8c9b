"""Measures detection and training on this machine, without a data set or trained weights."""

"""A detector outside training: stored, loaded, served."""

"""How fast detection and training run on this machine, without a data set or trained weights."""

"""An experiment: its config, its identity, and what each mode does with it."""

"""How good a detector is, said in figures, tables and pictures."""

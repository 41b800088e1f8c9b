"""How good a detector is, said in metrics, tables and pictures."""

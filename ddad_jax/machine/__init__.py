"""The machine: its processes and storage, and what its devices can do."""

"""A fitted detector in use: stored, loaded, asked, changed and exported."""

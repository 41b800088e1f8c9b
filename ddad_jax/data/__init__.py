"""Finds images, masks and labels, and turns them into batches."""

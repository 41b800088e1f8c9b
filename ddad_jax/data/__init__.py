"""Where images, masks and labels lie, and how they become batches."""

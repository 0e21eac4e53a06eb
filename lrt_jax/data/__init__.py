"""Preference data: sources, prepared sets, and the batches that the models read."""

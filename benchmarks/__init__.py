"""Measurements: against peers in the same run, and against the losses of TRL."""

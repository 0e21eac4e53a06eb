"""The run: state, optimizer, checkpoints, and the loop."""

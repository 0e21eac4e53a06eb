"""What a run will take on TPUs, told by their compiler on a machine that has none."""

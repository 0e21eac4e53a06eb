"""Devices: the mesh, the rules by which arrays are sharded, and the processes that hold it."""

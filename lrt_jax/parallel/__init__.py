"""Devices: the mesh, the table that places arrays on it, and the processes that hold it."""

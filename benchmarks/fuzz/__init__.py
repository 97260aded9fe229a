"""Hostile input for every reader: see `__main__`."""

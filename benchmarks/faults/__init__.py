"""Faults that are put into jobs, and what is left after them."""

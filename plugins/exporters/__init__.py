"""Formats that data sets are exported to, one module each; the interface is in `base`."""

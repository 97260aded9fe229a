"""Built-in importers: one module per format, and what they share."""

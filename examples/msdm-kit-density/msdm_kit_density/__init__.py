"""Per-pixel density of instance centres, as a map condition."""

"""What can be wrong with a data set: one module per source of findings."""

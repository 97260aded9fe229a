"""A sampling job: what it is, the pairs that it writes, how it goes on, what it tells."""

"""Built-in autoencoders."""

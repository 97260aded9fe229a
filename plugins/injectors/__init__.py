"""Built-in injectors."""

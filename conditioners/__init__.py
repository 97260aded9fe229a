"""Built-in conditioners. Each registers through the same hooks as a third party's."""

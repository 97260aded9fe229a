"""Built-in backbones. Each registers through the same hooks as a third party's."""

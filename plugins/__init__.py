"""Plugin host, hook specifications, and the built-ins of every kind but conditioners and backbones."""

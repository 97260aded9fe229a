"""The diffusion engine. It knows no concrete conditioner, injector, autoencoder or backbone."""

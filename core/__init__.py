"""The diffusion engine. It knows no concrete conditioner, injector or backbone."""

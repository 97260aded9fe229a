"""Tokens of a reference image from any network of timm, as a condition."""

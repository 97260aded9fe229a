"""Stain vectors of a field after Macenko et al. 2009, as a vector condition."""

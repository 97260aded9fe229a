"""How well do predicted masks fit the true ones?"""

"""Fitting: recipes, loss, Lightning."""

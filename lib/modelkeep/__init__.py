"""Modelkeep: keeps a deployed tabular model right, from notebooks."""

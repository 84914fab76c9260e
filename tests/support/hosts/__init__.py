"""Deployed hosts, as the Molecule scenarios have them."""

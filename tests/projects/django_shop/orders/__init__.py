"""Orders and what is done with them."""

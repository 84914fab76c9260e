"""A package below src/, without a build system, with data beside its code."""

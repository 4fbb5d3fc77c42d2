"""Videos of evaluated policies."""

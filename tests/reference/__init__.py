"""Oracles: the papers' equations in plain loops, to compare the library with."""

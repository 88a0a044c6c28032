"""Sections of ``tools/benchmark.py``; each returns tables, each table measured in one run."""

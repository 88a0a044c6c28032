"""Tests of the label rules."""

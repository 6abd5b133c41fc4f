"""Formats: what is on disk becomes nouns; bad rows become failures."""

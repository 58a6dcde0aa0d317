"""Exported files: their cards, running them, painting what they plan, publishing them. Needs no torch."""

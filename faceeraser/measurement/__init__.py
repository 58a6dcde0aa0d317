"""Figures: against a truth, without one, and of time on this machine and on a phone. Needs no torch."""

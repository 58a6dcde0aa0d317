"""Pairs from photographs, and every stage that changes weights: training, pruning, slimming, distilling, quantizing."""

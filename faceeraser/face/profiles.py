"""The parts of a face by their names, and names for sets of them. Nothing is imported here, so that `--help` stays quick."""

FEATURES = ("brows", "eyes", "nose", "mouth")
"""What every face has."""
PROFILES = {
    "all": FEATURES,
    "upper": ("brows", "eyes"),
    "lower": ("nose", "mouth"),
    "features": ("eyes", "nose", "mouth"),
}
"""Names for sets of parts, for `--parts`."""

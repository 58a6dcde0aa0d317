"""Files that are downloaded once and kept: where they are, and the check that they are the right ones."""

from __future__ import annotations

import os
from pathlib import Path

from faceeraser.system.writing import scratch


def folder() -> Path:
    """`FACEERASER_CACHE`, or where the platform keeps a user's caches (on Linux ~/.cache/faceeraser)."""
    if given := os.environ.get("FACEERASER_CACHE"):
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("faceeraser", appauthor=False)


def fetch(url: str, sha256: str, place: Path) -> Path:
    """The file at `place`, downloaded from `url` unless it is there already.

    sha256: its hex digits, or as many of the first ones as are known. They are checked each time.

    Raises:
        FileNotFoundError: it cannot be downloaded or stored; nothing is left behind.
        ValueError: it is another file than the one with this sha256.
    """
    import pooch

    if not place.is_file():
        pooch.get_logger().setLevel("WARNING")
        known = f"sha256:{sha256.lower()}" if len(sha256) == 64 else None
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with scratch(place.parent) as there:  # what a kill leaves of it goes with the next download
                pooch.retrieve(url, known, place.name, there)
                (there / place.name).replace(place)
        except ValueError as error:
            raise ValueError(f"{url}: {error}") from None
        except OSError as error:  # requests' errors are
            raise FileNotFoundError(f"{url}: cannot be downloaded ({error})") from None
    if not (digest := pooch.file_hash(str(place))).startswith(sha256.lower()):
        raise ValueError(f"{place}: sha256 is {digest}, expected {sha256}; delete it and run again")
    return place

"""The colours of pages and pictures, each for light and for dark backgrounds."""

from collections.abc import Mapping

PAGE = {
    "ground": ("#fff", "#15181c"),
    "ink": ("#1b1f24", "#e6e8ea"),
    "quiet": ("#555b63", "#a9afb8"),
    "line": ("#d5d9de", "#3a4048"),
    "link": ("#005a9c", "#7cc0f5"),
    "stripe": ("#f5f6f8", "#1c2026"),
    "bar": ("#bcd7ee", "#234763"),
}


def light_and_dark(colours: Mapping[str, tuple[str, str]]) -> list[str]:
    """`colours` as CSS variables: their light values, and their dark values."""
    return [";".join(f"--{name}:{pair[which]}" for name, pair in colours.items()) for which in (0, 1)]

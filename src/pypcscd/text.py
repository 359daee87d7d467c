"""Text that somebody else has chosen, for people."""


def safe_text(text: str) -> str:
    """A name as it may be shown: it must not look like several lines, nor steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)

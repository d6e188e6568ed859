"""Detect what is not the named file: a web page, which servers send for a missing file, or a Git LFS pointer."""

from pathlib import Path

from norml_cli.files.errors import UserError

HEAD_BYTES = 512  # at the start of a file, enough to recognise a web page
_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
_POINTER = b"version https://git-lfs."


def refuse(where: str | Path, head: bytes) -> None:
    """Raises UserError if `head`, the first bytes of the file at `where`, belong to a web page or a Git LFS pointer."""
    if head.startswith(_POINTER):
        raise UserError(f"{where}: this is a Git LFS pointer, not the file; download the file with `git lfs pull`")
    if head[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_STARTS):
        raise UserError(
            f"{where}: this is a web page, not the file; open it in a browser to see why, and download the file again"
        )

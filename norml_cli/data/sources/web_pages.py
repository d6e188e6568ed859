"""What lies in a file's place: a web page, which servers send for a file that is gone, or a pointer of Git LFS."""

from pathlib import Path

from norml_cli.files.errors import UserError

HEAD_BYTES = 512  # of a file, where a page says what it is
_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
_POINTER = b"version https://git-lfs."


def refuse(where: str | Path, head: bytes) -> None:
    """Raise UserError if `head`, the first bytes of the file at `where`, are those of a web page or a pointer."""
    if head.startswith(_POINTER):
        raise UserError(f"{where}: is a pointer of Git LFS, not the file; fetch it with `git lfs pull`")
    if head[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_STARTS):
        raise UserError(f"{where}: is a web page, not the file; open it in a browser to see why, and fetch it again")

"""A few flips of every kind of file; `nox -s trust` has hundreds."""

from pathlib import Path

import pytest

from tests.trust.flips import Count, campaign

FLIPS = 20


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Count]:
    return campaign(tmp_path_factory.mktemp("flips"), FLIPS, seed=1)


def test_every_flip_is_refused_in_one_line_or_changes_nothing_that_is_read(counts: dict[str, Count]):
    assert len(counts) == 6
    for kind, count in counts.items():
        assert count.wrong == [], kind
        assert count.flips == count.refused + count.read_unchanged == FLIPS


@pytest.mark.parametrize("kind", ["checkpoint", "backbone weights"])
def test_no_byte_of_what_has_a_checksum_of_the_whole_can_change(counts: dict[str, Count], kind: str):
    assert counts[kind].refused == FLIPS


def test_a_flip_that_nothing_notices_is_counted_as_wrong(tmp_path: Path):
    """The campaign can fail."""
    from tests.trust.flips import flipped  # noqa: PLC0415

    path = tmp_path / "file"
    path.write_bytes(b"content")
    count = flipped(path, path.read_bytes, flips=3, seed=0)
    assert count.wrong
    assert all("other data was read" in line for line in count.wrong)
    assert path.read_bytes() == b"content"

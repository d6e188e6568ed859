from tests.end_to_end.conftest import shell  # noqa: F401 - the fixture of the commands' tests

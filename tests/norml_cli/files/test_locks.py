"""Locks: who sees that a file is locked, and who removes the lock file of a killed process."""

from norml_cli.files.companions import lock_path
from norml_cli.files.locks import held, is_held, is_locked


def test_a_lock_is_seen_while_it_is_held(tmp_path):
    target = tmp_path / "seed-0.json"
    with held(target):
        assert is_held(target)
        assert is_locked(lock_path(target))
    assert not is_held(target)


def test_the_lock_file_of_a_killed_process_locks_nothing_and_goes_where_it_is_in_the_way(tmp_path):
    target = tmp_path / "seed-0.json"
    lock_path(target).touch()
    assert not is_locked(lock_path(target))
    assert lock_path(target).exists()  # `norml doctor` only looks
    assert not is_held(target)
    assert not lock_path(target).exists()

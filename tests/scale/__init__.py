"""Trainings on more than one process: `nox -s scale` runs all of these tests, the default run a small part."""

"""Trainings that can be stopped and resumed at any point."""

"""Registry entries: their models, their checks, and the run or pretraining that they resolve to."""

"""Raw sources -> examples and fixed episodes."""

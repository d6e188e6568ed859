"""What trains, stoppable anywhere."""

"""Where progress goes: the run's folder, the screen, the trackers."""

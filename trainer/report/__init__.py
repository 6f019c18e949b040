"""What a run says of itself: events, journal, progress, metrics, plots, log."""

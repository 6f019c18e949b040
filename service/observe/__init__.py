"""What a service says of itself: metrics, traces, logs, and how late its loop is."""

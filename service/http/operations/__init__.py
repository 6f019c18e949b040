"""Routes for those who run a service: health, checkpoints, models, history, the page at ``/``."""

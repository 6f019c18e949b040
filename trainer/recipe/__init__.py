"""What a run is asked for: recipes, their schema and YAML, schedules, and what may change later."""

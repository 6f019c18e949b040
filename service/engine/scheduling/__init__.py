"""Which tokens a step computes: queue, slots, sequences, chunks of prompts."""

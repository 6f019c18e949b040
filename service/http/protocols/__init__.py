"""The protocols that clients speak: each has schemas of bodies, and routes."""

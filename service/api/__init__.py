"""The rooms that know HTTP: schemas, routes, streams, limits, and errors as responses."""

"""One optimizer step: loss, precision, optimizer, evaluation, samples."""

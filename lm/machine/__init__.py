"""What this machine gives a process: cores, memory, standard streams, threads."""

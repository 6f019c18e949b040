"""What training costs on a machine, and how fast it learns."""

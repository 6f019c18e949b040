"""The decoder: its config, its layers, and the device that it runs on."""

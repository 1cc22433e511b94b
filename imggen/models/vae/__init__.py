"""The hierarchical VAE, and the textbook one."""

"""Generative adversarial networks: DCGAN and R3GAN."""

"""Transformers over the tokens of an autoencoder that is trained with them."""

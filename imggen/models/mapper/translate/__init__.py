"""Translation: images of one kind to images of another, learned from pairs or from two sets without pairs."""

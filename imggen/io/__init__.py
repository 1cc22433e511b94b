"""Files on disk: checkpoints, images and animations, written atomically."""

"""From a folder, an archive or a named data set to a cached array of uint8 images."""

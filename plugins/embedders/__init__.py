"""What turns an image into a vector of features, for comparing sets of images."""

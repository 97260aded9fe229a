"""What finds instances in an image, and how it is trained."""

"""Drive one VMM process. Knows no AWS, no image, no user."""

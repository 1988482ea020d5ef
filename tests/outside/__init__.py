"""A user's own components, one of each kind; tests copy them out of the tree."""

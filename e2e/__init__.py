"""End-to-end tests and the machinery that runs them."""

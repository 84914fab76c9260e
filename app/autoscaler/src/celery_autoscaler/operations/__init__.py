"""What operators do, from the command line or from the page."""

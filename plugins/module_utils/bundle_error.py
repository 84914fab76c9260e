"""What a user sees whose project cannot become a bundle."""


class BundleError(Exception):
    """One line that says what is wrong with the project, its lock file or the controller."""

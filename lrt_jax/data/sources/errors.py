"""What is raised about a source."""


class SourceError(ValueError):
    """A source whose files are missing or not in the published layout."""

"""What is raised about a source."""


class SourceError(ValueError):
    """A source whose files are missing or not in the published layout."""


class ArchiveError(SourceError):
    """An archive that cannot be read: that is no matter of the record that names an image in it."""

"""From a movie and a model to a table of localizations, its files and its image."""

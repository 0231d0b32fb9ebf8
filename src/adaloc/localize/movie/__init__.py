"""Movies of many programs behind one lazy reader: `open_movie` gives a `Movie`, `find_movies` what a folder holds."""

from adaloc.localize.movie.find import find_movies, join_movies, open_movie
from adaloc.localize.movie.interface import ArrayMovie, JoinedMovie, Movie

__all__ = ["ArrayMovie", "JoinedMovie", "Movie", "find_movies", "join_movies", "open_movie"]

"""A napari plugin: sample folders, localization files, and a model's localizations of a movie, as layers.

`napari.yaml` is its manifest (npe2). Nothing but `widgets` imports napari. World coordinates are nm from the outer
corner of the first pixel, as in the files of most programs; the first axis of movies and localizations is the frame.
"""

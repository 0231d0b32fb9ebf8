"""The search for a better config: a space, a study that several processes share, trials, and a page of results."""

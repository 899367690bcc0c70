"""The recommender a shop runs itself; start at :mod:`recsys.recommend`."""

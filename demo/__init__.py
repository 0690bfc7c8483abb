"""Data and a model of our own, so that the demo needs neither a data set nor a model hub."""

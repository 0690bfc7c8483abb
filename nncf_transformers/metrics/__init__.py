"""Metric modules of our own for ``evaluate``, so that no script needs a network to score itself.

Each folder is what ``evaluate.load`` takes: ``evaluate.load("…/metrics/squad")``, or
``evaluate.load("squad")`` when this folder is the current directory. Names, inputs, outputs and arithmetic
are those of the public metrics of the same name, so figures compare bit for bit. ``evaluate`` copies a module
away before it imports it; therefore the modules import nothing from this package and raise ordinary
exceptions.
"""

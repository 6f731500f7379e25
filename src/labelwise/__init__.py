"""labelwise: which items are worth labeling (or training on) next, and is it paying off?"""

__version__ = "0.1.0"

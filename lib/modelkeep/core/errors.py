"""The base of all errors that are a user's to mend: the command line prints their message, and no
traceback.
"""


class ModelkeepError(Exception):
    """Base class of the library's errors; its message says what is wrong, where, and the remedy."""

"""The one exception that means: the input is wrong, not the program."""


class InputError(Exception):
    """Bad input, told in one line: what is wrong, in which file, what to do about it.

    Stages and the command line print it as ``error: ...`` and exit with code 2, without a traceback.
    """

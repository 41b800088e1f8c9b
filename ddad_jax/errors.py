"""Errors that are not bugs of the program; `ddad_jax.main` turns each into an exit code."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 75


class UserError(Exception):
    """Bad input: one line naming the file or setting, what was found, and what to do.

    `ddad_jax.main` prints it as `error: …` and exits with code 2. The message can always be
    written as UTF-8, whatever a file is called (see `readable`).
    """

    def __init__(self, message: str):
        super().__init__(readable(message))


class Interrupted(Exception):
    """A signal asked the run to end; its state is saved, and the same command continues it.

    `ddad_jax.main` prints it and exits with code 75, "try again" in BSD's sysexits.
    """


def readable(name: str) -> str:
    """Returns a file's name as valid text, with each byte that is not UTF-8 written like %FC.

    Python reads such bytes as lone surrogates, which cannot be encoded as UTF-8.
    """
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)

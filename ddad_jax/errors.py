"""The ways a run ends that are nobody's bug; `ddad_jax.main` turns each into an exit code."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 75


class UserError(Exception):
    """Bad input: one line naming the file or setting, what was found, and what to do.

    `ddad_jax.main` prints it as `error: …` and exits with code 2. Whatever a file is called, the
    line is text that can be written.
    """

    def __init__(self, message: str):
        super().__init__(readable(message))


class Interrupted(Exception):
    """A signal asked the run to end; its state is saved and the same command continues it.

    `ddad_jax.main` prints it and exits with code 75, "try again" in BSD's sysexits.
    """


def readable(name: str) -> str:
    """A file's name as text that can be written: bytes that are not UTF-8 as %FC.

    Python reads such names as lone surrogates, which no file of text can hold.
    """
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)

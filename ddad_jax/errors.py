"""The ways a run ends that are nobody's bug; `ddad_jax.main` turns each into an exit code."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 75


class UserError(Exception):
    """Bad input: one line naming the file or setting, what was found, and what to do.

    `ddad_jax.main` prints it as `error: …` and exits with code 2.
    """


class Interrupted(Exception):
    """A signal asked the run to end; its state is saved and the same command continues it.

    `ddad_jax.main` prints it and exits with code 75, "try again" in BSD's sysexits.
    """

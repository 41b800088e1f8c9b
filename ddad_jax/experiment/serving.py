"""`--mode=serve`: loads detectors onto the devices, and answers over HTTP."""

import ipaddress
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from absl import logging

from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.detection.detector import shard_detector, with_reconstruct
from ddad_jax.errors import UserError
from ddad_jax.experiment.schema import Config
from ddad_jax.machine import interrupts
from ddad_jax.training.mesh import make_mesh

# The settings that serving depends on besides the detector's.
SERVING = ("mesh.", "serve.")


def serve(place: Path, config: Config, given: Sequence[str]) -> None:
    """Serves the detectors of a place until the program is asked to end.

    Args:
      place: a detector's file, or a folder of several; see `files_of`.
      config: says how they are served, and on which devices.
      given: the settings that the user gave, by dotted name.

    Raises:
      UserError: there is no detector, a setting is wrong or has no effect, or the extra is missing.
    """
    for name in given:
        if not name.startswith(SERVING):
            raise UserError(
                f"--config.{name}: does nothing with --mode=serve, as the detector has its own "
                "settings; leave it out"
            )
    try:
        from ddad_jax.serving.detectors import Detectors
        from ddad_jax.serving.metrics import Metrics
        from ddad_jax.serving.server import listen, serve, token_of
    except ModuleNotFoundError as error:
        raise UserError(
            f"--mode=serve: needs an extra ({error.name} is missing); install it with pip install "
            "'ddad_jax[serve]'"
        ) from error
    settings, mesh = config.serve, make_mesh(**asdict(config.mesh)).local_mesh

    def load(path: Path) -> FittedDetector:
        fitted = load_detector(path)
        # A reconstruction is only seen where it is drawn, and is made then.
        without = with_reconstruct(fitted.detector, False)
        return replace(fitted, detector=shard_detector(without, mesh))

    token = token_of(settings)
    if not token and not _is_loopback(settings.host):
        logging.warning(
            "serve.host: anyone who reaches %s can send requests; serve.token_file limits that",
            settings.host,
        )
    with listen(settings) as listener:
        metrics = Metrics()
        detectors = Detectors(place, load, settings.batch_size, settings.reload_seconds, metrics)
        try:
            serve(listener, detectors, settings, metrics, token)
        except KeyboardInterrupt:
            # By now all requests are answered.
            interrupts.forget()
    logging.info("all requests are answered; the server ends")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""From pixels to a decision: noise level, reconstruction, maps, calibration, `detect`."""

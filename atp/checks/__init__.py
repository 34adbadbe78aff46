"""The checks of ``atp doctor``, one file per subject; no stage depends on them."""

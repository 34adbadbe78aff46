"""What ``atp doctor`` checks, one file for each subject; no stage depends on any of it."""

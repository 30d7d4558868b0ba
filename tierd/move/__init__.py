"""Carries transfers out: idempotent steps, run in worker processes, claimed and supervised by the mover."""

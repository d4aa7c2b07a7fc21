"""Attacks on polledger, as programs: what a dishonest prover can write, so that the verifier can be tried on it."""

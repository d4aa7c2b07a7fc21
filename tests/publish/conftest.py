"""The honest run that the verifier's tests use."""

from tests.verify.conftest import honest

__all__ = ["honest"]

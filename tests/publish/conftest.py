"""The honest run that the verifier's tests use; a good claim, a browser, and what a page says in it."""

from tests.publish.reading import authority, chromium, good, read
from tests.verify.conftest import honest

__all__ = ["authority", "chromium", "good", "honest", "read"]

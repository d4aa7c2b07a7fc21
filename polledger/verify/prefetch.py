"""Reads and hashes the state the next replay starts from while the present one runs: half of what replays cost besides.

Only this process holds the state: no child is given anything earlier than without.
"""

from concurrent.futures import Future, ThreadPoolExecutor

from polledger.store.objects import ObjectStore
from polledger.verify.states import LoadedState, StateReader


class Prefetch:
    """At most one state ahead, in a thread of its own that :meth:`close` ends and :meth:`ask` starts.

    A state that was taken is valid until the one after the next is asked for or taken: its memory is used again.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._reader = StateReader(objects)
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[bytes, Future[LoadedState]] | None = None

    def ask(self, root: bytes) -> None:
        """Begin to load the state of ``root``; what was asked for before and not taken is forgotten."""
        if self._ahead is None or self._ahead[0] != root:
            self._thread = self._thread or ThreadPoolExecutor(max_workers=1)
            self._ahead = (root, self._thread.submit(self._reader.load, root))

    def take(self, root: bytes) -> LoadedState:
        """The state of ``root``, waited for if it was asked for, loaded now if not. Raises Unavailable either way."""
        if self._ahead is None or self._ahead[0] != root:
            self.ask(root)
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            raise RuntimeError("a state that was asked for is not waited for")
        return ahead[1].result()

    def close(self) -> None:
        """End the thread; a state that is being read is waited for. Idempotent."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread = self._ahead = None

"""Spoof 20, peeking: the replay runs the thief's own code, and that code looks for what it should arrive at.

The last interval of the run ends at the stolen weights, and the code knows where the run will be handed in, searches
arguments, environment, working directory, descriptors, memory and its parent's files, calls an accomplice over the
network, and patches the comparison. With the answer in reach it returns it, and the interval matches. PROTOCOL
section 10: the child that replays has nothing of the answer in reach, and the comparison happens elsewhere.

What keeps files and network away is the operating system (Landlock and namespaces of Linux). Where it does not, the
report says so under ``environment.isolation``; a verdict reached there rests on having read the code.
"""

import socketserver
import threading
from dataclasses import replace

from polledger.core.state import encode_state
from polledger.redteam.forge import forging, seal_options, thief_key
from polledger.redteam.smuggling import program
from polledger.redteam.spoof import Attempt, Forgery, Spoof, Target
from polledger.redteam.states import tensors_of


class Accomplice(socketserver.ThreadingTCPServer):
    """Gives ``answer`` to whoever calls, for as long as this process runs."""

    daemon_threads = True
    answer = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Telling)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it is to be called."""
        return int(self.server_address[1])


class _Telling(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.server, Accomplice):
            self.request.sendall(self.server.answer)


def peek(target: Target, attempt: Attempt) -> Forgery:
    """Train honestly but for the last step, whose end is the stolen weights; the verifier vouches for the code."""
    accomplice = Accomplice()
    path = program(target, "peek", attempt.directory)
    run = attempt.directory / "run"
    text = path.read_text().replace('RUN = ""', f"RUN = {str(run)!r}")
    path.write_text(text.replace("PORT = 0", f"PORT = {accomplice.port}"))
    known = replace(target, task=f"{path}:Peek")
    with forging(seal_options(known, attempt), thief_key(attempt.seed)) as forge:
        forge.begin()
        last = forge.steps - 1
        forge.train_through(0, last)
        forge.say(last)
        forge.move(last, tensors_of(target.weights))
        accomplice.answer = b"".join(encode_state(forge.state()).chunks())
        forge.checkpoint(forge.steps)
        forge.finish()
        return Forgery(
            run=forge.run.path,
            gradients=forge.cost(target),
            sample=1,
            bogus=1,
            arguments=("--trust-code", forge.genesis.task.hex()),
            note="the last interval, which is always opened, is a jump",
        )


SPOOFS = (
    Spoof(
        number=20,
        variant="",
        title="code that looks for the answer while it replays",
        source="review",
        forge=peek,
        reference=False,
        why="it runs the prover's code in its own process, evidence and all",
    ),
)

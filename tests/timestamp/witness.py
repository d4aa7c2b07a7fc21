"""A small C2SP tlog-witness in a process of its own, written from the specification and sharing no code with polledger.

It cosigns what extends the head it signed last, of any log whose origin begins with a prefix and whose key it was told,
and remembers it on disk before it answers. Told so by a file, it fails and lies in the ways of :data:`MODES`.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX = "polledger/run/"
DASH = "\N{EM DASH}"

Response = tuple[int, dict[str, str], bytes]


class Refusal(Exception):
    """A request that is not answered with a cosignature."""

    def __init__(self, status: int, body: bytes = b"no\n", kind: str = "text/plain") -> None:
        super().__init__(status)
        self.response: Response = (status, {"Content-Type": kind}, body)


@dataclass
class Checkpoint:
    """A parsed checkpoint of a log whose signature holds."""

    origin: str
    size: int
    root: bytes
    text: bytes


def hash_key(name: str, kind: int, key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def vkey(name: str, key: Ed25519PrivateKey, kind: int = 4) -> str:
    raw = key.public_key().public_bytes_raw()
    return f"{name}+{hash_key(name, kind, raw).hex()}+{base64.b64encode(bytes([kind]) + raw).decode()}"


def cosign(
    name: str, key: Ed25519PrivateKey, text: bytes, seconds: int, *, claim: bytes | None = None
) -> str:
    """A cosignature line; ``claim`` is the public key that the line names, the signer's own if it is None."""
    raw = claim or key.public_key().public_bytes_raw()
    signature = key.sign(b"cosignature/v1\ntime " + str(seconds).encode() + b"\n" + text)
    blob = hash_key(name, 4, raw) + seconds.to_bytes(8, "big") + signature
    return f"{DASH} {name} {base64.b64encode(blob).decode()}\n"


def consistent(m: int, n: int, old: bytes, new: bytes, proof: list[bytes]) -> bool:
    """RFC 6962 section 2.1.2, read as the recursion it is defined by."""
    left = list(proof)

    def node(a: bytes, b: bytes) -> bytes:
        return hashlib.sha256(b"\x01" + a + b).digest()

    def subproof(m: int, n: int, is_whole: bool) -> tuple[bytes, bytes]:
        if m == n:
            root = old if is_whole else left.pop(0)
            return root, root
        k = 1 << ((n - 1).bit_length() - 1)
        if m <= k:
            before, after = subproof(m, k, is_whole)
            return before, node(after, left.pop(0))
        before, after = subproof(m - k, n - k, False)
        sibling = left.pop(0)
        return node(sibling, before), node(sibling, after)

    try:
        before, after = subproof(m, n, True)
    except IndexError:
        return False
    return not left and (before, after) == (old, new)


class Witness:
    """The state machine: add-checkpoint of C2SP tlog-witness."""

    def __init__(self, *, state: Path, name: str, key: Ed25519PrivateKey, log: bytes, mode: Path) -> None:
        self.name, self.key, self.log, self.mode, self.state = name, key, log, mode, state
        self.lock = threading.Lock()
        self.known: dict[str, dict[str, object]] = json.loads(state.read_text()) if state.exists() else {}

    def add_checkpoint(self, body: bytes) -> Checkpoint:
        """Check and remember. Raises Refusal."""
        old, proof, note = self._parse(body)
        head = self._open(note)
        if old > head.size:
            raise Refusal(400)
        with self.lock:
            known = self.known.get(head.origin, {"size": 0})
            if old != known["size"]:
                raise Refusal(409, f"{known['size']}\n".encode(), "text/x.tlog.size")
            if old == head.size and known["root"] != head.root.hex():
                raise Refusal(409)
            if old == 0 and proof:
                raise Refusal(422)
            if old and not consistent(old, head.size, bytes.fromhex(str(known["root"])), head.root, proof):
                raise Refusal(422)
            line = cosign(self.name, self.key, head.text, int(time.time()))
            self.known[head.origin] = {"size": head.size, "root": head.root.hex(), "line": line}
            self._persist()
        return head

    def _parse(self, body: bytes) -> tuple[int, list[bytes], bytes]:
        request, separator, note = body.partition(b"\n\n")
        first, *hashes = request.decode("ascii", "replace").split("\n")
        word, _, number = first.partition(" ")
        if not separator or word != "old" or not number.isascii() or number != str(int(number or "-1")):
            raise Refusal(400)
        if len(hashes) > 63:
            raise Refusal(400)
        proof = [base64.b64decode(line, validate=True) for line in hashes]
        if any(len(item) != 32 for item in proof):
            raise Refusal(400)
        return int(number), proof, note

    def _open(self, note: bytes) -> Checkpoint:
        text, separator, signatures = note.rpartition(b"\n\n")
        lines = text.decode().split("\n")
        if not separator or len(lines) < 3 or any(not line for line in lines):
            raise Refusal(400)
        text += b"\n"
        if not lines[0].startswith(PREFIX):
            raise Refusal(404)
        self._check_signature(lines[0], text, signatures.decode())
        return Checkpoint(
            origin=lines[0], size=int(lines[1]), root=base64.b64decode(lines[2], validate=True), text=text
        )

    def _check_signature(self, origin: str, text: bytes, signatures: str) -> None:
        wanted = hash_key(origin, 1, self.log)
        for line in signatures.splitlines():
            dash, name, encoded = line.split(" ")
            blob = base64.b64decode(encoded, validate=True)
            if (dash, name, blob[:4]) == (DASH, origin, wanted):
                try:
                    Ed25519PublicKey.from_public_bytes(self.log).verify(blob[4:], text)
                except InvalidSignature:
                    raise Refusal(403) from None
                return
        raise Refusal(403)

    def _persist(self) -> None:
        fresh = self.state.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(self.known, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.state)


def _text(body: bytes, status: int = 200, kind: str = "text/plain") -> Response:
    return status, {"Content-Type": kind}, body


def _honest(witness: Witness, body: bytes) -> Response:
    try:
        head = witness.add_checkpoint(body)
    except Refusal as refusal:
        return refusal.response
    except ValueError:
        return _text(b"bad\n", 400)
    return _text(str(witness.known[head.origin]["line"]).encode())


def _signed_by_another(witness: Witness, body: bytes) -> Response:
    head = witness.add_checkpoint(body)
    claim = witness.key.public_key().public_bytes_raw()
    return _text(
        cosign(witness.name, Ed25519PrivateKey.generate(), head.text, 1_790_000_000, claim=claim).encode()
    )


def _under_another_key(witness: Witness, body: bytes) -> Response:
    head = witness.add_checkpoint(body)
    return _text(cosign(witness.name, Ed25519PrivateKey.generate(), head.text, 1_790_000_000).encode())


def _other_text(witness: Witness, body: bytes) -> Response:
    head = witness.add_checkpoint(body)
    bare = b"\n".join(head.text.split(b"\n")[:3]) + b"\n"
    return _text(cosign(witness.name, witness.key, bare, 1_790_000_000).encode())


def _stale(witness: Witness, body: bytes) -> Response:
    """The cosignature of the head before, which it signed well."""
    origin = witness._open(witness._parse(body)[2]).origin
    before = str(witness.known[origin]["line"])
    witness.add_checkpoint(body)
    return _text(before.encode())


def _timeless(witness: Witness, body: bytes) -> Response:
    return _text(cosign(witness.name, witness.key, witness.add_checkpoint(body).text, 0).encode())


def _chatty(witness: Witness, body: bytes) -> Response:
    """A good line twice, among lines of others and of another kind."""
    head = witness.add_checkpoint(body)
    line = str(witness.known[head.origin]["line"])
    other = cosign("other.example", Ed25519PrivateKey.generate(), head.text, 1_790_000_000)
    quantum = f"{DASH} {witness.name} {base64.b64encode(bytes(4 + 8 + 2420)).decode()}\n"
    return _text((other + quantum + line + line + other).encode())


MODES: dict[str, Callable[[Witness, bytes], Response]] = {
    "honest": _honest,
    "chatty": _chatty,
    "signed-by-another": _signed_by_another,
    "under-another-key": _under_another_key,
    "other-text": _other_text,
    "stale": _stale,
    "timeless": _timeless,
    "garbage": lambda witness, body: _text(bytes(range(256)) * 8),
    "html": lambda witness, body: _text(b"<html>log in</html>\n", kind="text/html"),
    "empty": lambda witness, body: _text(b""),
    "no-newline": lambda witness, body: _text(_honest(witness, body)[2].rstrip()),
    "many-lines": lambda witness, body: _text(b"x\n" * 65),
    "large": lambda witness, body: _text(b"x" * 70_000),
    "redirect": lambda witness, body: (302, {"Location": "http://127.0.0.1:9/"}, b""),
    "failing": lambda witness, body: _text(b"", 500),
    "busy": lambda witness, body: _text(b"", 429),
    "unknown": lambda witness, body: _text(b"", 404),
    "forbidden": lambda witness, body: _text(b"", 403),
    "malformed": lambda witness, body: _text(b"", 400),
    "inconsistent": lambda witness, body: _text(b"", 422),
    "fickle": lambda witness, body: _text(b"1\n" if b"old 2\n" in body else b"2\n", 409, "text/x.tlog.size"),
    "ahead": lambda witness, body: _text(b"9007199254740991\n", 409, "text/x.tlog.size"),
    "beyond": lambda witness, body: _text(b"9007199254740992\n", 409, "text/x.tlog.size"),
    "padded": lambda witness, body: _text(b"01\n", 409, "text/x.tlog.size"),
    "sizeless": lambda witness, body: _text(b"1\n", 409),
}
"""How an answer is made, by the name that the mode file holds; ``hang``, ``endless`` and ``lost`` are the handler's."""


class Handler(BaseHTTPRequestHandler):
    witness: Witness
    journal: Path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.journal.open("a") as file:
            file.write(json.dumps({"path": self.path, "body": body.decode()}) + "\n")
        mode = self.witness.mode.read_text()
        if mode == "hang":
            time.sleep(600)
        if mode == "lost":
            self.witness.add_checkpoint(body)
            self.close_connection = True
            return
        if mode == "endless":
            self._stream()
            return
        try:
            response = MODES[mode](self.witness, body)
        except Refusal as refusal:
            response = refusal.response
        self._send(*(response if self.path == "/add-checkpoint" else _text(b"", 404)))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * 1024)
                time.sleep(0.01)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class Listener(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # Whoever started it holds the port while it is down.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("name")
    parser.add_argument("seed")
    parser.add_argument("log")
    options = parser.parse_args()
    Handler.journal = options.directory / "journal"
    Handler.witness = Witness(
        state=options.directory / "state.json",
        name=options.name,
        key=Ed25519PrivateKey.from_private_bytes(bytes.fromhex(options.seed)),
        log=bytes.fromhex(options.log),
        mode=options.directory / "mode",
    )
    listener = Listener(("127.0.0.1", options.port), Handler)
    print("ready", flush=True)
    listener.serve_forever()


class Running:
    """A witness process that a test starts, stops and bends. ``log``: the raw public key of the logs it takes."""

    def __init__(self, directory: Path, *, name: str, log: bytes) -> None:
        directory.mkdir()
        self.directory, self.name, self.log = directory, name, log
        self.key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))
        self._process: subprocess.Popen[str] | None = None
        self.mode("honest")
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.getsockname()[1]}"

    @property
    def vkey(self) -> str:
        return vkey(self.name, self.key)

    @property
    def given(self) -> str:
        """The witness as ``--witness`` takes it."""
        return f"{self.url}+{self.vkey}"

    def mode(self, name: str) -> None:
        """How it answers from now on."""
        (self.directory / "mode").write_text(name)

    def start(self) -> None:
        raw = self.key.private_bytes_raw().hex()
        words = [str(self.directory), str(self._port.getsockname()[1]), self.name, raw, self.log.hex()]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._port.close()

    def asked(self) -> list[str]:
        """The bodies of all requests so far."""
        journal = self.directory / "journal"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [json.loads(line)["body"] for line in lines]

    def olds(self) -> list[int]:
        """The old sizes that it was asked from."""
        return [int(body.split("\n")[0].removeprefix("old ")) for body in self.asked()]

    def sizes(self) -> list[int]:
        """The sizes that it has cosigned last, one per log."""
        state = self.directory / "state.json"
        known = json.loads(state.read_text()) if state.exists() else {}
        return [entry["size"] for entry in known.values()]


@contextlib.contextmanager
def running(directory: Path, *, log: bytes, name: str = "witness.example/w1") -> Iterator[Running]:
    """A witness in ``directory``, which is made; ended with the block."""
    witness = Running(directory, name=name, log=log)
    try:
        yield witness
    finally:
        witness.close()


if __name__ == "__main__":
    main()

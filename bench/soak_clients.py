"""Clients that are no load but a nuisance, for bench/soak.py: some that hardly read, some that vanish at any moment.
What they read they verify, to the last byte.

Nothing here waits. A single thread gives each client its turn, some twenty times a second, and in its turn a client
does what it can at once.
"""

import random
import socket
import struct
import time
from dataclasses import dataclass

TURN_SECONDS = 0.05
SIP = 16 << 10  # what a slow reader reads in a turn: 320 KB/s
AHEAD = 4 << 20  # it stops asking when so many bytes are to come; by then the server has long stopped receiving
GULP = 1 << 20  # what it reads in a turn when it has half-closed and wants the rest
RECEIVE_BUFFER = 64 << 10  # small, so that what is not read stays with the server
SILENCE_SECONDS = 20


class Wrong(Exception):
    """Bytes came that are not those that had to come."""


class Endless:
    """A period of bytes, repeated for ever. A prime length: bytes lost or repeated never look like others."""

    def __init__(self, period):
        self.period = period
        self._twice = period * 2

    def at(self, position, count):
        start = position % len(self.period)
        if count <= len(self.period):
            return self._twice[start:start + count]
        return (self.period * (count // len(self.period) + 2))[start:start + count]


@dataclass(frozen=True)
class Talk:
    """What such a client says, and what must be answered to each round of it."""
    asked: Endless
    answered: Endless

    def due(self, sent):
        """Bytes that must come for `sent` bytes."""
        if self.asked is self.answered:
            return sent
        return sent // len(self.asked.period) * len(self.answered.period)


def echo_talk():
    stream = Endless(random.Random(4).randbytes(65521))
    return Talk(stream, stream)


def file_talk(path, contents):
    return Talk(Endless(f"GET {path}\n".encode()), Endless(f"OK {len(contents)}\n".encode() + contents))


@dataclass
class Tally:
    """What all of them came to."""
    rounds: int = 0  # connections that ended as they should
    errors: int = 0  # that did not
    verified: int = 0  # bytes
    first: str = ""  # of them
    wrong: str = ""


class Client:
    def __init__(self, name, port, talk, draw):
        self.name, self.port, self.talk, self.draw = name, port, talk, draw
        self.socket = None
        self.sent = self.received = 0

    def connect(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", self.port))
        self.socket.setblocking(False)
        self.sent = self.received = 0
        self.turns = 0
        self.heard_at = time.monotonic()
        self.begin()

    def say(self, most):
        """Sends up to `most` bytes, as many as go at once."""
        while most > 0:
            try:
                count = self.socket.send(self.talk.asked.at(self.sent, min(most, 64 << 10)))
            except BlockingIOError:
                return
            self.sent += count
            most -= count

    def hear(self, most):
        """Reads and verifies up to `most` bytes, as many as are there. False: it was the end."""
        while most > 0:
            try:
                data = self.socket.recv(min(most, 64 << 10))
            except BlockingIOError:
                return True
            if not data:
                return False
            self.verify(data)
            self.heard_at = time.monotonic()
            most -= len(data)
        return True

    def verify(self, data):
        wanted = self.talk.answered.at(self.received, len(data))
        if data != wanted:
            at = next(i for i, (got, due) in enumerate(zip(data, wanted)) if got != due)
            raise Wrong(f"{self.name}: wrong byte: byte {self.received + at} of its stream: "
                        f"expected 0x{wanted[at]:02x}, got 0x{data[at]:02x}")
        self.received += len(data)
        if self.received > self.talk.due(self.sent):
            raise Wrong(f"{self.name}: {self.received} bytes came, and only {self.talk.due(self.sent)} were due")

    def close(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def turn(self, tally):
        before = self.received
        try:
            if self.socket is None:
                before = 0
                self.connect()
            if self.act():
                self.close()
                tally.rounds += 1
        except OSError as error:
            self.close()
            tally.errors += 1
            tally.first = tally.first or f"{self.name}: {error.strerror or error}"
        tally.verified += max(0, self.received - before)


class SlowReader(Client):
    """Asks without end and sips. After some seconds it half-closes and reads the rest: all must come, then FIN."""

    def begin(self):
        self.last_turn = self.draw.randint(100, 200)
        self.half_closed = False

    def act(self):
        self.turns += 1
        if not self.half_closed and self.turns > self.last_turn:
            self.socket.shutdown(socket.SHUT_WR)
            self.half_closed = True
        if time.monotonic() - self.heard_at > SILENCE_SECONDS:
            raise OSError(0, f"nothing came for {SILENCE_SECONDS} s")
        if self.half_closed:
            return not self.hear(GULP) and self.is_complete()
        self.say(self.room())
        if not self.hear(SIP):
            raise OSError(0, "the server closed, and not all was answered")
        return False

    def room(self):
        """Bytes that it may still ask: whole requests where an answer is longer than its request."""
        if self.talk.asked is self.talk.answered:
            return AHEAD - (self.sent - self.received)
        return len(self.talk.asked.period) if self.talk.due(self.sent) - self.received < SIP else 0

    def is_complete(self):
        due = self.talk.due(self.sent)
        if self.received < due:
            raise OSError(0, f"{self.received} of {due} bytes came after its half-close, then FIN")
        return True


class Vanisher(Client):
    """Asks for something, reads some of it or nothing, and is gone, with a reset, in the middle of whatever it was."""

    def begin(self):
        self.last_turn = self.draw.randint(1, 6)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def act(self):
        self.turns += 1
        self.say(self.draw.choice((1, 7, 64, 4096, 100_000)) if self.talk.asked is self.talk.answered
                 else self.draw.randint(1, 3 * len(self.talk.asked.period)))
        if not self.hear(self.draw.choice((0, 1, 4096, 1 << 20))):
            raise OSError(0, "the server closed, and nobody had asked it to")
        return self.turns >= self.last_turn


def clients(port, talk, slow_readers, vanishers):
    return [*(SlowReader(f"slow reader {i}", port, talk, random.Random(i)) for i in range(slow_readers)),
            *(Vanisher(f"vanishing client {i}", port, talk, random.Random(1000 + i)) for i in range(vanishers))]


def drive(everybody, tally, stop):
    """Until `stop` is set, or something is wrong. For a thread of its own."""
    try:
        while not stop.wait(TURN_SECONDS):
            for client in everybody:
                client.turn(tally)
    except Wrong as error:
        tally.wrong = str(error)
    finally:
        for client in everybody:
            client.close()

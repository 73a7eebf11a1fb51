"""Whose a socket is, guessed from where the program had its last one; with real processes."""

import os
import socket
import time

from pytest_netcapture.engine.attribution import Guesses


def link_of(sock):
    return f"socket:[{os.fstat(sock.fileno()).st_ino}]"


class Child:
    """A forked process that makes a socket each time it is asked to."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            made = []
            while theirs.recv(1):
                made.append(socket.socket())
                theirs.send(link_of(made[-1]).encode())
            os._exit(0)
        theirs.close()
        self._ours = ours

    def make(self) -> str:
        self._ours.send(b"?")
        return self._ours.recv(100).decode()

    def end(self) -> None:
        self._ours.close()
        os.waitpid(self.pid, 0)


def test_a_programs_next_socket_is_found_and_its_parents_is_not_taken_for_its_own():
    with socket.socket() as inherited:
        child = Child()
        try:
            guesses = Guesses()
            first, own = link_of(inherited), child.make()
            assert guesses.find(own) == 0
            guesses.learn(child.pid, own)
            assert guesses.find(own) == child.pid
            guesses.learn(child.pid, first)  # now that descriptor is looked at, too
            assert guesses.find(first) == 0
            later = child.make()
            assert guesses.find(later) in {0, child.pid}
            guesses.learn(child.pid, later)
            assert guesses.find(later) == child.pid
        finally:
            child.end()
            guesses.close()


def test_a_program_is_described_anew_when_it_has_become_another():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1)
        os.execvp("sleep", ["sleep", "60"])
    try:
        with socket.socket() as mine:
            guesses = Guesses()
            guesses.learn(os.getpid(), link_of(mine))
            assert guesses.describe(os.getpid()).command == guesses.describe(os.getpid()).command
        assert guesses.describe(pid).name != "sleep"
        os.write(writer, b"!")
        deadline = time.monotonic() + 20
        while guesses.describe(pid).command != ("sleep", "60"):
            assert time.monotonic() < deadline
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        guesses.close()

#!/usr/bin/env python3
"""reset_many WISP RUN_DIR COUNT -- OPTION... : a bare-metal guest taken back COUNT times.

The guest (guests/bare/resets.c) does a round for each byte on its serial port, and says its number.
It is taken back to the same moment after each, so it must say the same number for ever, write the
same number of pages, and its monitor must have the same number of descriptors and mappings. Every
hundredth time, and the last, all its memory and registers must be as they were the first time.
Says what a reset costs. Ends with status 1 and the reason when any of that is not so.
"""
import hashlib
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time

LIMIT = float(os.environ.get("TEST_LIMIT", "150"))
# What takes long is looked at so seldom.
SELDOM = 100


def fail(why):
    print("FAILED:", why)
    sys.exit(1)


class Guest:
    def __init__(self, wisp, run_dir, options):
        self.wisp, self.run_dir = wisp, run_dir
        self.name = f"reset-many-{os.getpid()}"
        self.room = os.path.join(run_dir, self.name)
        self.text = b""
        self.process = subprocess.Popen(
            [wisp, "run", "--run-dir", run_dir, "--name", self.name, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def line(self):
        """The next round that the guest says."""
        deadline = time.monotonic() + LIMIT
        while True:
            line, newline, rest = self.text.partition(b"\n")
            if newline:
                self.text = rest
                line = line.decode(errors="replace").strip()
                if line.startswith("# round"):
                    return line
                print(line)
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                fail(f"the guest says nothing; before: {self.text!r}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                fail(f"the guest ended with {self.process.wait()}")
            self.text += data

    def go(self):
        self.process.stdin.write(b"g")
        self.process.stdin.flush()
        return self.line()

    def connect(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(LIMIT)
        self.socket.connect(os.path.join(self.room, "control.sock"))

    def ask(self, **request):
        self.socket.send(json.dumps(request).encode())
        reply = json.loads(self.socket.recv(1 << 17))
        if "error" in reply:
            fail(f"{request}: {reply['error']}")
        return reply

    def do(self, verb, *options):
        subprocess.run([self.wisp, verb, "--run-dir", self.run_dir, self.name, *options],
                       check=True, timeout=LIMIT)

    def whole(self):
        """Memory and registers at the moment that it goes back to, in a few bytes."""
        core = os.path.join(self.run_dir, f"{self.name}.core")
        self.do("pause")
        self.ask(do="reset", identical=True)
        self.do("core", core)
        self.do("resume")
        digest = hashlib.blake2b(digest_size=16)
        with open(core, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
        os.unlink(core)
        return digest.hexdigest()

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def holds(self):
        """What of the host its monitor has; None where only root may look."""
        proc = f"/proc/{self.pid}"
        try:
            with open(f"{proc}/maps", encoding="ascii", errors="replace") as maps:
                mappings = sum(1 for _ in maps)
            with open(f"{proc}/smaps_rollup", encoding="ascii") as rollup:
                private = [line.split()[1] for line in rollup if line.startswith("Private_Dirty")]
            return len(os.listdir(f"{proc}/fd")), mappings, int(private[0])
        except PermissionError:
            return None

    def spent(self):
        """Nanoseconds of a processor that the monitor's first thread, which resets, has had."""
        with open(f"/proc/{self.pid}/task/{self.pid}/schedstat", encoding="ascii") as stat:
            return int(stat.read().split()[0])


def main():
    # However it is ended, its guest is too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wisp, run_dir, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    guest = Guest(wisp, run_dir, sys.argv[sys.argv.index("--") + 1:])
    try:
        check(guest, count)
    finally:
        guest.end()


def check(guest, count):
    guest.line()
    for _ in range(3):
        guest.go()
    guest.do("reset", "--set")
    guest.connect()
    guest.pid = guest.ask(do="info")["pid"]
    pages, micros, spent, first, early = [], [], [], None, None
    whole, wholes = guest.whole(), 0
    for i in range(count):
        said = guest.go()
        first = first or said
        if said != first:
            fail(f"reset {i}: it said '{said}', and before '{first}'")
        before = guest.spent()
        reply = guest.ask(do="reset", identical=True)
        spent.append((guest.spent() - before) / 1000)
        pages.append(reply["pages"])
        micros.append(reply["us"])
        if i % SELDOM == SELDOM - 1 or i == count - 1:
            if guest.whole() != whole:
                fail(f"reset {i}: its memory or registers are not what they were")
            wholes += 1
        if i % 1000 == 999:
            print(f"{i + 1} resets, the last one {micros[-1]} us", flush=True)
        # From the first few on nothing is to grow.
        if i == min(10, count - 1):
            early = guest.holds()
    late = guest.holds()
    print(f"each time: {first[2:]}; {count} resets of {min(pages)} to {max(pages)} pages, median "
          f"{statistics.median(micros):.0f} us, fastest {min(micros)} us; "
          f"of a processor {statistics.median(spent):.0f} us, fastest {min(spent):.0f} us")
    print(f"memory and registers, byte by byte: {wholes} times what they were at first")
    if early:
        print(f"descriptors, mappings, KiB of its own: {early}, then {late}")
    else:
        print("what its monitor holds was not looked at: only root may")
    if min(pages) < 50:
        fail("the guest writes 50 pages in each round")
    # Its stack, its ring, what an interrupt or two touch.
    if max(pages) > 80:
        fail("the guest does not write so many pages")
    # A thread or two may have been started since; what grows each time grows by more.
    if early and any(now > then + few for now, then, few in zip(late, early, (8, 8, 1024))):
        fail("something grows")
    if guest.go() != first:
        fail("it does not go on after the last one")


main()

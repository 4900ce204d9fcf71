#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""escape.py SHARE_MOUNT [SECONDS]: tries to get out of a shared directory. As root.

The directory is mounted on this host by SHARE_MOUNT (tests/share/share_mount.c): the server in its
sandbox and the monitor's client, with this kernel in the guest's place. Beside the directory lies a
secret. The guest's half of an attempt goes through the mount and follows no links, as they are
followed by the guest, in its own tree; the host's half changes the directory from behind. Prints a
line for each attempt; exits 1 when one led out.
"""
import ctypes
import errno
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

SYS_OPENAT2, SYS_RENAMEAT2 = 437, 316
RESOLVE_NO_SYMLINKS = 0x04
RENAME_EXCHANGE = 2
AT_FDCWD = -100
SECRET = b"the secret"

libc = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    r = libc.syscall(number, *args)
    if r < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r


def open_in(path, flags=os.O_RDONLY):
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS)
    return syscall(SYS_OPENAT2, AT_FDCWD, path.encode(), how, len(how))


def read_in(path):
    """What the file has, or None where it cannot be had."""
    try:
        fd = open_in(path)
    except OSError:
        return None
    try:
        return os.read(fd, 100)
    except OSError:
        return None
    finally:
        os.close(fd)


def exchange(a, b):
    syscall(SYS_RENAMEAT2, AT_FDCWD, a.encode(), AT_FDCWD, b.encode(), RENAME_EXCHANGE)


def put(path, data):
    with open(path, "wb") as f:
        f.write(data)


class Place:
    """The directory, what lies beside it, and where the guest sees it."""

    def __init__(self, program):
        self.top = tempfile.mkdtemp(prefix="wisp-escape.")
        self.share, self.outside, self.mount = (
            os.path.join(self.top, name) for name in ("share", "outside", "mount"))
        for path in (self.share, self.outside, self.mount):
            os.mkdir(path)
        put(self.outside + "/file", SECRET)
        self.server = subprocess.Popen([program, self.share, self.mount])
        while not os.path.ismount(self.mount):
            if self.server.poll() is not None:
                sys.exit("share_mount ended")
            time.sleep(0.05)

    def close(self):
        subprocess.run(["umount", "-l", self.mount], check=False)
        self.server.wait(30)
        shutil.rmtree(self.top)


def swapped(place, seconds, host, guest):
    """What the guest reads while the host exchanges two names, as often as both can."""
    until = time.monotonic() + seconds
    seen, swaps = {}, 0

    def swap():
        nonlocal swaps
        while time.monotonic() < until:
            exchange(*host)
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    while time.monotonic() < until:
        data = read_in(guest)
        seen[data] = seen.get(data, 0) + 1
    thread.join()
    return f"{swaps} swaps, {sum(seen.values())} reads, {seen.get(b'inside', 0)} of them inside", \
        set(seen) <= {b"inside", None}


def directory_becomes_link(place, seconds):
    os.mkdir(place.share + "/d")
    put(place.share + "/d/file", b"inside")
    os.symlink(place.outside, place.share + "/other")
    return swapped(place, seconds, (place.share + "/d", place.share + "/other"),
                   place.mount + "/d/file")


def file_becomes_link(place, seconds):
    put(place.share + "/f", b"inside")
    os.symlink(place.outside + "/file", place.share + "/g")
    return swapped(place, seconds, (place.share + "/f", place.share + "/g"), place.mount + "/f")


def directory_leaves_under_the_guest(place, _):
    """A directory that the guest has is moved out of the share: .. from there is outside."""
    os.makedirs(place.share + "/a/b")
    fd = open_in(place.mount + "/a/b", os.O_RDONLY | os.O_DIRECTORY)
    os.rename(place.share + "/a/b", place.outside + "/b")
    put(place.outside + "/b/file", SECRET)
    seen = []
    for path in ("file", "../file", "../../outside/file"):
        try:
            with open(path, "rb", opener=lambda p, flags: os.open(p, flags, dir_fd=fd)) as f:
                seen.append(f.read(100))
        except OSError as e:
            seen.append(errno.errorcode[e.errno])
    os.close(fd)
    return f"{seen}", SECRET not in seen


def mount_appears(place, _):
    os.mkdir(place.share + "/m")
    before = read_in(place.mount + "/m/file")
    subprocess.run(["mount", "--bind", place.outside, place.share + "/m"], check=True)
    try:
        seen = read_in(place.mount + "/m/file")
    finally:
        subprocess.run(["umount", place.share + "/m"], check=True)
    return f"{before}, then {seen}", seen != SECRET


def hard_links(place, _):
    put(place.mount + "/one", b"inside")
    os.link(place.mount + "/one", place.mount + "/two")
    try:
        os.link(place.outside + "/file", place.mount + "/three")
        return "one from outside was made", False
    except OSError as e:
        return f"within: made; from outside: {e.strerror}", e.errno == errno.EXDEV


def handle_after_removal(place, _):
    put(place.share + "/h", b"inside")
    fd = open_in(place.mount + "/h")
    os.unlink(place.mount + "/h")
    os.symlink(place.outside + "/file", place.share + "/h")
    old, again = os.read(fd, 100), None
    try:
        with open(f"/proc/self/fd/{fd}", "rb") as f:
            again = f.read(100)
    except OSError as e:
        again = errno.errorcode[e.errno]
    os.close(fd)
    return f"the handle reads {old}, opened again {again}", old == b"inside" and again != SECRET


def open_many(path, limit):
    """A process that has @path open as often as it can. Its pid, how often, and why not more."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        num, why = 0, 0
        try:
            while num < limit:
                open_in(path)
                num += 1
        except OSError as e:
            why = e.errno
        os.write(tell, struct.pack("ii", num, why))
        signal.pause()
    os.close(tell)
    num, why = struct.unpack("ii", os.read(told, 8))
    os.close(told)
    return pid, num, why


def a_million_files(place, _):
    put(place.share + "/many", b"inside")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    pids, total, why = [], 0, 0
    while total < 1000000 and why in (0, errno.EMFILE):
        pid, num, why = open_many(place.mount + "/many", 1000000 - total)
        pids.append(pid)
        total += num
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for _ in range(100):
        after = read_in(place.mount + "/many")
        if after:
            break
        time.sleep(0.1)
    return f"{total} open, then: {os.strerror(why)}; when they were closed: {after}", \
        after == b"inside"


def main():
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10
    failed = False
    for attempt in (directory_becomes_link, file_becomes_link, directory_leaves_under_the_guest,
                    mount_appears, hard_links, handle_after_removal, a_million_files):
        place = Place(sys.argv[1])
        try:
            said, good = attempt(place, seconds)
        finally:
            place.close()
        failed |= not good
        print("ok" if good else "not ok", attempt.__name__.replace("_", " ") + ":", said, flush=True)
    sys.exit(failed)


main()

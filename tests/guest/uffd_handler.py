#!/usr/bin/env python3
"""uffd_handler.py SOCKET MEMORY [LOG [MODE]]: a handler of page faults as Firecracker has them
(docs/snapshot.md), for one connection after the other. Pages come from the file MEMORY. LOG gets
what was asked for. MODE: "leave" closes the connection at once and serves all the same; "die"
ends at the first fault."""
import array
import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import sys

UFFDIO_COPY, UFFDIO_ZEROPAGE = 0xC028AA03, 0xC020AA04
AROUND = 64 << 10
PAGEFAULT, REMOVE = 0x12, 0x15


class Guest:
    def __init__(self, connection, memory, mode):
        text, fds = b"", array.array("i")
        text, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[:4])
        self.fd, self.memory = fds[0], memory
        self.connection = None if mode == "leave" else connection
        self.regions = json.loads(text)
        for r in self.regions:
            assert set(r) == {"base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"}
        assert sum(r["size"] for r in self.regions) == len(memory)
        self.page = self.regions[0]["page_size"]
        self.removed, self.faults, self.removes = set(), 0, 0

    def bring(self, address):
        address &= ~(self.page - 1)
        r = next(r for r in self.regions
                 if 0 <= address - r["base_host_virt_addr"] < r["size"])
        offset = address - r["base_host_virt_addr"] + r["offset"]
        source = ctypes.addressof(ctypes.c_char.from_buffer(self.memory, offset))
        try:
            # With its neighbours, as long as none of them is there or gone.
            if self.page == 4096 and address % AROUND == 0 and not self.removed and \
                    offset + AROUND <= r["offset"] + r["size"]:
                fcntl.ioctl(self.fd, UFFDIO_COPY,
                            bytearray(struct.pack("QQQQq", address, source, AROUND, 0, 0)))
            elif address in self.removed and self.page == 4096:
                fcntl.ioctl(self.fd, UFFDIO_ZEROPAGE,
                            bytearray(struct.pack("QQQq", address, self.page, 0, 0)))
            else:
                fcntl.ioctl(self.fd, UFFDIO_COPY,
                            bytearray(struct.pack("QQQQq", address, source, self.page, 0, 0)))
        except FileExistsError:
            pass
        except BlockingIOError:  # a message about pages that go is in front
            return False
        return True

    def serve(self, mode):
        """All that the kernel says now."""
        waiting = []
        while True:
            try:
                message = os.read(self.fd, 32)
            except BlockingIOError:
                break
            event, first, second = message[0], *struct.unpack_from("QQ", message, 8)
            if event == PAGEFAULT:
                if mode == "die":
                    os._exit(1)
                waiting.append(second)
            elif event == REMOVE:
                self.removes += 1
                self.removed.update(range(first, second, self.page))
        self.faults += len(waiting)
        while waiting and self.bring(waiting[-1]):
            waiting.pop()
        for address in waiting:
            # Whoever gives pages back has been told, and has to run before any can be brought.
            while not self.bring(address):
                self.serve(mode)
                os.sched_yield()


def main():
    path, file = sys.argv[1:3]
    log = open(sys.argv[3] if len(sys.argv) > 3 else os.devnull, "a", buffering=1)
    mode = sys.argv[4] if len(sys.argv) > 4 else ""
    fd = os.open(file, os.O_RDONLY)
    memory = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    guests, poll = {}, select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for at, events in poll.poll():
            if at == listener.fileno():
                guest = Guest(listener.accept()[0], memory, mode)
                print("regions", json.dumps(guest.regions), file=log)
                guests[guest.fd] = guest
                poll.register(guest.fd, select.POLLIN)
                if guest.connection:
                    poll.register(guest.connection, 0)
                    guests[guest.connection.fileno()] = guest
                continue
            guest = guests.get(at)
            if guest and at == guest.fd:
                guest.serve(mode)
            elif guest:  # its connection is closed: the guest is at its end, or needs us no more
                print("end", guest.faults, "faults", guest.removes, "removes", file=log)
                for fd in at, guest.fd:
                    poll.unregister(fd)
                    del guests[fd]
                os.close(guest.fd)
                guest.connection.close()


main()

"""A slow link of our own: what passes it arrives half a round trip later, in both directions.

A TUN device in a network namespace of its own hands every packet back with its addresses
swapped, so that programs in the namespace that talk to FAR talk to each other, over the link. A
resolver at the far end knows every name, and packets are written down as they pass. Linux only;
it needs no root where users may make namespaces.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

NEAR, FAR = "10.99.0.1", "10.99.0.2"
NAME = "server.test"
PORT = 8000  # of the server in the namespace, which is not that of any other


@dataclass(frozen=True)
class Packet:
    """One IPv4 packet, as it entered the link or as it left it."""

    at: float  # seconds since the link was opened
    arrived: bool  # False: entered, True: left, half a round trip later
    protocol: str  # "tcp" or "udp"
    source: int  # ports
    target: int
    flags: str  # of TCP, such as "SA" for SYN and ACK
    sequence: int  # of TCP: the number of its first byte
    acknowledged: int  # of TCP: the number of the first byte not acknowledged
    size: int  # bytes of payload


# In the namespace


def open_tun(name="slow"):
    """Make the device, with our address; return its file descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # TUNSETIFF; IFF_TUN | IFF_NO_PI
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0001 | 0x1000))
    for setting, value in {
        f"ipv6/conf/{name}/disable_ipv6": "1",  # the device would announce itself
        # As RFC 5681 has it, and as every Linux can do it, whatever this one prefers.
        "ipv4/tcp_congestion_control": "reno",
        "ipv4/tcp_slow_start_after_idle": "1",
        "ipv4/tcp_no_metrics_save": "1",  # each connection finds out for itself
    }.items():
        with suppress(FileNotFoundError):  # no IPv6 at all
            Path("/proc/sys/net", setting).write_text(value)
    for command in (
        "link set lo up",
        f"addr add {NEAR}/24 dev {name}",
        f"link set {name} up mtu 1500",
        # A busy machine is late, which is no reason to send anything again.
        f"route change 10.99.0.0/24 dev {name} src {NEAR} rto_min 600ms",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    return device


def parse(packet, at, arrived):
    """Return what an IPv4 packet is."""
    header = (packet[0] & 15) * 4
    protocol = {6: "tcp", 17: "udp"}.get(packet[9], "other")
    source, target = struct.unpack_from("!HH", packet, header)
    if protocol != "tcp":
        return Packet(at, arrived, protocol, source, target, "", 0, 0, len(packet) - header - 8)
    offset, bits = packet[header + 12] >> 4, packet[header + 13]
    flags = "".join(letter for n, letter in enumerate("FSRPA") if bits >> n & 1)
    numbers = struct.unpack_from("!II", packet, header + 4)
    size = len(packet) - header - 4 * offset
    return Packet(at, arrived, protocol, source, target, flags, *numbers, size)


class Resolver(asyncio.DatagramProtocol):
    """Responds to each lookup of an IPv4 address with FAR, and to others with no address."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        end = data.index(b"\0", 12) + 5  # the question: a name, a type and a class
        wanted = struct.unpack_from("!H", data, end - 4)[0] == 1  # A
        head = data[:2] + struct.pack("!5H", 0x8180, 1, wanted, 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(FAR)
        self.transport.sendto(head + data[12:end] + record * wanted, address)


async def relay(reader, writer):
    """Take a connection that came over the link to the server on 127.0.0.1."""
    try:
        back, forth = await asyncio.open_connection("127.0.0.1", PORT)
    except OSError:
        writer.close()
        return

    async def pump(source, target):
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(pump(reader, forth), pump(back, writer))


async def serve(round_trip, log):
    """Be the link, until stopped. SIGUSR1 cuts it: from then on nothing arrives."""
    loop, device, start = asyncio.get_running_loop(), open_tun(), monotonic()
    cut, end = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, cut.set)
    loop.add_signal_handler(signal.SIGTERM, end.set)

    def note(packet, arrived):
        seen = parse(packet, monotonic() - start, arrived)
        log.write(json.dumps(vars(seen)) + "\n")
        log.flush()

    def arrive(packet):
        if not cut.is_set():
            note(packet, True)
            # Checksums hold: they are sums, and the two addresses change places.
            os.write(device, packet[:12] + packet[16:20] + packet[12:16] + packet[20:])

    def forward():
        while True:
            try:
                packet = os.read(device, 65536)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            note(packet, False)
            loop.call_later(round_trip / 2, arrive, packet)

    loop.add_reader(device, forward)
    await loop.create_datagram_endpoint(Resolver, (NEAR, 53))
    await asyncio.start_server(relay, NEAR, PORT)
    print("up", flush=True)
    await end.wait()


# Outside


class Link:
    """A link in a namespace of its own, and how to run programs there."""

    def __init__(self, round_trip):
        """Open a link whose round trips take so many seconds."""
        self.round_trip = round_trip
        self._folder = tempfile.mkdtemp()
        self._log = Path(self._folder, "packets")
        names = Path(self._folder, "resolv.conf")
        names.write_text(f"nameserver {FAR}\noptions timeout:10\n")
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        link = [sys.executable, "-m", __name__, str(round_trip), str(self._log), str(names)]
        self.process = subprocess.Popen(
            ["unshare", *as_root, "--net", "--mount", *link],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.process.stdout.readline() != "up\n":
            error = self.process.communicate()[1]
            shutil.rmtree(self._folder)
            raise OSError(error.strip().rpartition("\n")[2])

    def inside(self, argv):
        """Return the command that runs a command in the namespace."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        target = f"--target={self.process.pid}"
        return ["nsenter", target, *user, "--net", "--mount", "--wd=.", *argv]

    def cut(self):
        """From now on nothing arrives, in either direction."""
        self.process.send_signal(signal.SIGUSR1)

    @property
    def log(self):
        """Return what happened to packets, in order: each enters, and arrives."""
        return [Packet(**json.loads(line)) for line in self._log.read_text().splitlines()]

    @property
    def packets(self):
        """Return the packets that entered."""
        return [packet for packet in self.log if not packet.arrived]

    def close(self):
        self.process.terminate()
        self.process.communicate()
        shutil.rmtree(self._folder)


if __name__ == "__main__":
    subprocess.run(["mount", "--bind", sys.argv[3], "/etc/resolv.conf"], check=True)
    with open(sys.argv[2], "w") as packets:
        asyncio.run(serve(float(sys.argv[1]), packets))

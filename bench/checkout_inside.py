"""What runs first in a network namespace of its own: makes the namespace's end of a link, hands it out, becomes the program.

`unshare --user --map-current-user --net --keep-caps python -m bench.checkout_inside FD ADDRESS WORD…`
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import sys

from twofold.platform.run import run

MTU = 9000  # a sixth of the packets: the link is a program
_TUNSETIFF, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_NAME = "wire0"


def main() -> int:
    channel, address, *words = sys.argv[1:]
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", _NAME.encode(), _TUN | _NO_HEADER).ljust(40, b"\0"))
    run(["ip", "link", "set", "lo", "up"])
    run(["ip", "address", "add", f"{address}/24", "dev", _NAME])
    run(["ip", "link", "set", _NAME, "mtu", str(MTU), "up"])
    run(["ip", "route", "add", "default", "dev", _NAME])
    with socket.socket(fileno=int(channel)) as out:
        out.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end]))])
    os.close(end)
    os.execvp("setpriv", ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--", *words])


if __name__ == "__main__":
    sys.exit(main())

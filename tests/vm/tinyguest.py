"""A guest of 30 bytes: it counts in its memory and prints the count's low byte, without end.

It boots where a Linux guest would take minutes, on a KVM that is itself emulated, so what a driver
of a VMM does can be tested on any /dev/kvm.
"""

import struct
from pathlib import Path

LOAD_ADDRESS = 0x1000000
COUNTER_ADDRESS = 0x2000000
# mov ebx, COUNTER_ADDRESS; mov dx, 0x3f8; again: inc dword [rbx]; mov al, [rbx]; out dx, al;
# pause; jmp again
CODE = bytes.fromhex("bb00000002 66baf803 ff03 8a03 ee f390 ebf7")
HEADER, SEGMENT = 64, 56


def write_kernel(path: Path) -> None:
    """An ELF program that is the whole kernel."""
    offset = HEADER + SEGMENT
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,  # executable
        62,  # x86-64
        1,
        LOAD_ADDRESS,
        HEADER,
        0,
        0,
        HEADER,
        SEGMENT,
        1,
        0,
        0,
        0,
    )
    size = len(CODE)
    segment = struct.pack("<IIQQQQQQ", 1, 7, offset, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 4096)
    path.write_bytes(header + segment + CODE)


def counted(memory: bytes) -> int:
    """The counter, from the memory of the guest at COUNTER_ADDRESS."""
    return int.from_bytes(memory[:4], "little")

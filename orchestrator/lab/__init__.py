"""Virtual boards: emulated 64-bit Arm boards that the host builds, boots and throws away.

Each is a process of QEMU with a real kernel, sshd and Python, and is reached as any board is.
"""

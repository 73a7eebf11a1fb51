"""Kernel constants and struct layouts of this package: their one home.

Values from the uapi headers of Linux 6.x (sched.h, mount.h, capability.h, prctl.h, wait.h). All are
part of the kernel's stable interface and equal on every architecture that CPython supports.
"""

from __future__ import annotations

import struct

# linux/sched.h
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000

# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MNT_DETACH = 2

# sys/statvfs.h: what f_flag calls the flags above, where the values differ
ST_RELATIME = 4096

# Flags that a mount taken over from another user namespace keeps locked: a remount repeats them.
LOCKED_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME

# linux/capability.h
CAP_DAC_OVERRIDE = 1
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAPABILITY_VERSION_3 = 0x2008_0522

# struct __user_cap_header_struct {version, pid}; two of struct __user_cap_data_struct
# {effective, permitted, inheritable}, low words first.
CAPABILITY_HEADER = struct.Struct("=Ii")
CAPABILITY_DATA = struct.Struct("=6I")

# linux/prctl.h
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_IS_SET = 1
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_LOWER = 3

# asm-generic/unistd.h: the same on every architecture, since they are newer than 5.0
SYS_PIDFD_SEND_SIGNAL = 424
SYS_PIDFD_OPEN = 434

# linux/wait.h: also children that were not made with SIGCHLD
WALL = 0x4000_0000

# include/uapi/linux/seccomp.h, as /proc/self/status shows it
SECCOMP_MODE_FILTER = 2

# user_namespace.c: a user namespace may lie this deep
USER_NAMESPACE_DEPTH = 32

"""Writes tun_ffi.py, cffi's out-of-line ABI mode: it needs no compiler, and no parser at run time.

Run as a script after a change of `CDEF`; the other side is stack/src/ffi.rs. test_tun_stack.py
checks that what is there is current.
"""

from __future__ import annotations

import os
import sys

CDEF = """
typedef struct {
    uint64_t seed;
    uint32_t mtu, buffer, offload;
    int32_t tun, loopback, diag;
    uint32_t locals, own;
} nc_config;
uint32_t nc_abi_version(void);
int32_t nc_start(const nc_config *config, const uint8_t *addresses, void **handle);
int32_t nc_join(void *handle);
"""


def write(path: str) -> None:
    from cffi import FFI

    builder = FFI()
    builder.cdef(CDEF)
    builder.set_source("pytest_netcapture.redirect.tun_ffi", None)
    builder.emit_python_code(path)


if __name__ == "__main__":
    write(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "tun_ffi.py"))

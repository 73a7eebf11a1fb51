//! A TCP/IP stack behind a TUN device. Each captured connection becomes one end of a socket pair.
//!
//! 1. What decides does no I/O and has no clock: `packet`, `reassembly`, `link` and `stack` take bytes,
//!    microseconds and a seed as arguments. `driver` is their edge: a thread, epoll, descriptors.
//! 2. `unsafe` is in `ffi` alone, and no panic leaves it.
//! 3. Loopback and the namespace's own addresses are routed here as well. What somebody in the namespace
//!    listens for (`diag`) goes back as it came; the rest is captured as any other.

pub mod diag;
pub mod driver;
pub mod ends;
pub mod ffi;
pub mod link;
pub mod packet;
pub mod reassembly;
pub mod record;
pub mod stack;

//! Whether somebody in the namespace would take a packet: one exact query of NETLINK_SOCK_DIAG.
//!
//! The rules are those of redirect/ruleset.py: a socket bound to that very address, or connected, takes it
//! always; one on a wildcard address only over loopback and the own addresses.
//! Kernel: include/uapi/linux/inet_diag.h, net/ipv4/{inet,udp}_diag.c.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::packet::{Key, UDP};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const ALL_STATES: u32 = 0xfff;
const LENGTH: usize = 72;

/// `own` are the addresses of the sandbox itself, beside the machine's.
pub struct Diag {
    pub socket: OwnedFd,
    pub own: Vec<IpAddr>,
}

fn put(request: &mut [u8], at: usize, address: IpAddr) {
    match address {
        IpAddr::V4(address) => request[at..at + 4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => request[at..at + 16].copy_from_slice(&address.octets()),
    }
}

/// Asks for the socket that a packet along `key` would reach.
pub fn question(key: &Key) -> [u8; LENGTH] {
    let mut made = [0u8; LENGTH];
    made[..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
    made[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    made[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    made[16] = if key.source.is_ipv4() { 2 } else { 10 };
    made[17] = key.protocol;
    made[20..24].copy_from_slice(&ALL_STATES.to_ne_bytes());
    // For UDP the two ends are swapped, which the kernel calls historical.
    let ((near, near_port), (far, far_port)) = if key.protocol == UDP {
        ((key.source, key.source_port), (key.target, key.target_port))
    } else {
        ((key.target, key.target_port), (key.source, key.source_port))
    };
    made[24..26].copy_from_slice(&near_port.to_be_bytes());
    made[26..28].copy_from_slice(&far_port.to_be_bytes());
    put(&mut made, 28, near);
    put(&mut made, 44, far);
    made[64..72].fill(0xff); // no cookie
    made
}

/// Reads the answer: whether a socket was found that takes packets to `target`.
pub fn takes(answer: &[u8], target: IpAddr, own: &[IpAddr]) -> bool {
    if answer.len() < 72 || answer[4..6] != SOCK_DIAG_BY_FAMILY.to_ne_bytes() {
        return false;
    }
    let wildcard = answer[24..40].iter().all(|byte| *byte == 0);
    !wildcard || target.is_loopback() || own.contains(&target)
}

impl Diag {
    pub fn listens(&self, key: &Key) -> bool {
        let mut answer = [0u8; 512];
        if send(&self.socket, &question(key), SendFlags::empty()).is_err() {
            return false;
        }
        match recv(&self.socket, &mut answer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => takes(&answer[..length.min(answer.len())], key.target, &self.own),
            Err(_) => false,
        }
    }
}

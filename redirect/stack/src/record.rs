//! What travels on the channel, both ways: one fixed record a message, then a datagram's payload.
//!
//! The layout is `_RECORD` in redirect/tun_stack.py; a change of it is a new `VERSION`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::link::Faults;
use crate::packet::Key;

pub const VERSION: u32 = 2;
pub const SIZE: usize = 56;
pub const FAULTS_SIZE: usize = 56;

/// Kinds of events, from the stack.
pub mod event {
    pub const CONNECTING: u8 = 1;
    pub const OPENED: u8 = 2;
    pub const CLOSED: u8 = 3;
    pub const DATAGRAM: u8 = 4;
    pub const SYNCED: u8 = 5;
    pub const FATAL: u8 = 9;
}

/// Kinds of commands, to the stack.
pub mod command {
    pub const ACCEPT: u8 = 1;
    pub const REFUSE: u8 = 2;
    pub const DROP: u8 = 3;
    pub const UNREACHABLE: u8 = 4;
    pub const ABORT: u8 = 5;
    pub const DATAGRAM: u8 = 6;
    pub const PORT_UNREACHABLE: u8 = 7;
    pub const SYNC: u8 = 8;
    pub const STOP: u8 = 9;
    pub const FAULTS_UP: u8 = 10;
    pub const FAULTS_DOWN: u8 = 11;
}

/// `number` is a descriptor, a flag or a serial number, as `kind` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: u8,
    pub flow: u64,
    pub number: i32,
    pub key: Key,
}

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut made = [0; 16];
            made[..4].copy_from_slice(&address.octets());
            made
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(family: u8, data: [u8; 16]) -> IpAddr {
    if family == 4 {
        Ipv4Addr::new(data[0], data[1], data[2], data[3]).into()
    } else {
        Ipv6Addr::from(data).into()
    }
}

/// A key that stands for none.
pub const NOBODY: Key = Key {
    protocol: 0,
    source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    source_port: 0,
    target: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    target_port: 0,
};

impl Record {
    pub fn new(kind: u8, flow: u64, number: i32) -> Record {
        Record { kind, flow, number, key: NOBODY }
    }

    pub fn encode(&self) -> [u8; SIZE] {
        let mut made = [0; SIZE];
        made[0] = self.kind;
        made[1] = if self.key.source.is_ipv4() { 4 } else { 6 };
        made[2..4].copy_from_slice(&self.key.source_port.to_ne_bytes());
        made[4..6].copy_from_slice(&self.key.target_port.to_ne_bytes());
        made[6..8].copy_from_slice(&u16::from(self.key.protocol).to_ne_bytes());
        made[8..12].copy_from_slice(&self.number.to_ne_bytes());
        made[16..24].copy_from_slice(&self.flow.to_ne_bytes());
        made[24..40].copy_from_slice(&bytes(self.key.source));
        made[40..56].copy_from_slice(&bytes(self.key.target));
        made
    }

    /// Reads a record; returns it and what follows it.
    pub fn decode(data: &[u8]) -> Option<(Record, &[u8])> {
        let (head, rest) = data.split_at_checked(SIZE)?;
        let key = Key {
            protocol: u16::from_ne_bytes(head[6..8].try_into().ok()?) as u8,
            source: address(head[1], head[24..40].try_into().ok()?),
            source_port: u16::from_ne_bytes(head[2..4].try_into().ok()?),
            target: address(head[1], head[40..56].try_into().ok()?),
            target_port: u16::from_ne_bytes(head[4..6].try_into().ok()?),
        };
        let record = Record {
            kind: head[0],
            flow: u64::from_ne_bytes(head[16..24].try_into().ok()?),
            number: i32::from_ne_bytes(head[8..12].try_into().ok()?),
            key,
        };
        Some((record, rest))
    }
}

/// Reads the faults of one direction (`_FAULTS` in redirect/tun_stack.py).
pub fn faults(data: &[u8]) -> Option<Faults> {
    let data: &[u8; FAULTS_SIZE] = data.try_into().ok()?;
    let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| data[at + i]));
    let short = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| data[at + i]));
    Some(Faults {
        seed: long(0),
        delay: long(8),
        jitter: long(16),
        rate: long(24),
        loss: short(32),
        duplicate: short(36),
        reorder: short(40),
        corrupt: short(44),
        black_hole: short(48),
    })
}

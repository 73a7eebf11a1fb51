//! IP fragments become packets again (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! 1. A packet is kept for `LIFETIME`, and never more than `MOST` at a time: the oldest goes first.
//! 2. Fragments that overlap, or would make a packet longer than 65,535 bytes, drop all of it.
//! 3. What comes out has no trace of having been cut: IPv6's fragment header is gone. A fragment of a fragment is
//!    dropped: nobody sends one but to have thousands unwrapped, one in the other.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::packet::{FRAGMENT_V6, complete_v4};

const LIFETIME: i64 = 30_000_000;
const MOST: usize = 64;
const LONGEST: usize = 65_535;

type Identity = (IpAddr, IpAddr, u32, u8);

struct Partial {
    head: Vec<u8>,
    pieces: BTreeMap<usize, Vec<u8>>,
    length: Option<usize>,
    since: i64,
}

#[derive(Default)]
pub struct Reassembly {
    partial: HashMap<Identity, Partial>,
}

struct Fragment<'a> {
    identity: Identity,
    offset: usize,
    more: bool,
    head: Vec<u8>,
    data: &'a [u8],
}

fn read(packet: &[u8], end: usize, source: IpAddr, target: IpAddr) -> Option<Fragment<'_>> {
    let be = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    if packet[0] >> 4 == 4 {
        let body = usize::from(packet[0] & 15) * 4;
        let flags = be(6);
        return Some(Fragment {
            identity: (source, target, be(4) as u32, packet[9]),
            offset: (flags & 0x1fff) * 8,
            more: flags & 0x2000 != 0,
            head: packet[..body].to_vec(),
            data: packet.get(body..end)?,
        });
    }
    let data = packet.get(48..end).filter(|_| packet[40] != FRAGMENT_V6)?;
    let mut head = packet[..40].to_vec();
    head[6] = packet[40];
    Some(Fragment {
        identity: (source, target, u32::from_be_bytes(packet[44..48].try_into().ok()?), packet[40]),
        offset: be(42) & 0xfff8,
        more: packet[43] & 1 != 0,
        head,
        data,
    })
}

impl Reassembly {
    /// Takes a fragment in; returns the packet when it was the last one that lacked.
    pub fn take(
        &mut self,
        now: i64,
        packet: &[u8],
        header: &crate::packet::Header,
    ) -> Option<Vec<u8>> {
        let key = &header.key;
        let fragment = read(packet, header.end, key.source, key.target)?;
        if !self.partial.contains_key(&fragment.identity) {
            self.make_room(now);
        }
        let identity = fragment.identity;
        let partial = self.partial.entry(identity).or_insert_with(|| Partial {
            head: Vec::new(),
            pieces: BTreeMap::new(),
            length: None,
            since: now,
        });
        if !partial.add(fragment) {
            self.partial.remove(&identity);
            return None;
        }
        let whole = partial.whole()?;
        self.partial.remove(&identity);
        Some(whole)
    }

    fn make_room(&mut self, now: i64) {
        self.partial.retain(|_, partial| now - partial.since < LIFETIME);
        while self.partial.len() >= MOST {
            let oldest = self.partial.iter().min_by_key(|(_, p)| p.since).map(|(k, _)| *k);
            let Some(oldest) = oldest else { return };
            self.partial.remove(&oldest);
        }
    }
}

impl Partial {
    /// False when the packet cannot be what it says.
    fn add(&mut self, fragment: Fragment<'_>) -> bool {
        let end = fragment.offset + fragment.data.len();
        let head = if fragment.head[0] >> 4 == 4 { fragment.head.len() } else { 0 };
        if end + head > LONGEST {
            return false;
        }
        let before = self.pieces.range(..=fragment.offset).next_back();
        if before.is_some_and(|(at, piece)| at + piece.len() > fragment.offset) {
            return before
                .is_some_and(|(at, piece)| *at == fragment.offset && piece == fragment.data);
        }
        if self.pieces.range(fragment.offset..).next().is_some_and(|(at, _)| *at < end) {
            return false;
        }
        if !fragment.more {
            self.length = Some(end);
        }
        if fragment.offset == 0 {
            self.head = fragment.head;
        }
        self.pieces.insert(fragment.offset, fragment.data.to_vec());
        true
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let length = self.length?;
        let mut at = 0;
        for (offset, piece) in &self.pieces {
            if *offset != at {
                return None;
            }
            at += piece.len();
        }
        if at != length || self.head.is_empty() {
            return None;
        }
        let mut packet = self.head.clone();
        self.pieces.values().for_each(|piece| packet.extend_from_slice(piece));
        if packet[0] >> 4 == 4 {
            let total = packet.len() as u16;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[6..8].fill(0);
            complete_v4(&mut packet);
        } else {
            let total = (packet.len() - 40) as u16;
            packet[4..6].copy_from_slice(&total.to_be_bytes());
        }
        Some(packet)
    }
}

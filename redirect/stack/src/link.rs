//! What a bad network does to packets, by a seed: the same packets at the same times fare the same.
//!
//! 1. Time is an argument, in microseconds. Nothing happens by itself: `push` takes a packet, `pop` gives
//!    those whose time has come, `next` says when that is.
//! 2. Each packet costs the same number of draws whatever is switched on, so that one rate changed does not
//!    change which packets another one hits.
//! 3. Packets keep their order, jitter or not, but those that `reorder` hits.
//! 4. A corrupted packet has one bit of its transport flipped, which every checksum notices.

use std::collections::BTreeMap;

use crate::packet;

/// Shares are in parts per million; `rate` in bytes a second, `delay` and `jitter` in microseconds.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Faults {
    pub seed: u64,
    pub loss: u32,
    pub duplicate: u32,
    pub reorder: u32,
    pub corrupt: u32,
    pub delay: u64,
    pub jitter: u64,
    pub rate: u64,
    /// Longer packets vanish without a word (RFC 2923); 0: none do.
    pub black_hole: u32,
}

impl Faults {
    pub fn is_none(&self) -> bool {
        Faults { seed: 0, ..*self } == Faults::default()
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

/// What has become of packets so far.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
    pub swallowed: u64,
}

pub struct Link {
    faults: Faults,
    random: Random,
    waiting: BTreeMap<(i64, u64), Vec<u8>>,
    pushed: u64,
    free_at: i64,
    last: i64,
    pub tally: Tally,
}

const REORDERED_BY: i64 = 3_000;

impl Link {
    pub fn new(faults: Faults) -> Link {
        Link {
            faults,
            random: Random(faults.seed),
            waiting: BTreeMap::new(),
            pushed: 0,
            free_at: 0,
            last: 0,
            tally: Tally::default(),
        }
    }

    /// Takes other faults from now on; what is under way arrives as it would have.
    pub fn change(&mut self, faults: Faults) {
        if faults.seed != self.faults.seed {
            self.random = Random(faults.seed);
        }
        self.faults = faults;
    }

    pub fn is_idle(&self) -> bool {
        self.faults.is_none() && self.waiting.is_empty()
    }

    pub fn push(&mut self, now: i64, mut data: Vec<u8>) {
        let draws: [u64; 6] = std::array::from_fn(|_| self.random.next());
        let hit = |at: usize, share: u32| draws[at] % 1_000_000 < u64::from(share);
        let faults = self.faults;
        if faults.black_hole > 0 && data.len() > faults.black_hole as usize {
            self.tally.swallowed += 1;
            return;
        }
        if hit(0, faults.loss) {
            self.tally.lost += 1;
            return;
        }
        if hit(3, faults.corrupt) && flip(&mut data, draws[4]) {
            self.tally.corrupted += 1;
        }
        let at = self.arrival(now, data.len(), hit(2, faults.reorder), draws[5]);
        if hit(1, faults.duplicate) {
            self.tally.duplicated += 1;
            self.keep(at, data.clone());
        }
        self.tally.passed += 1;
        self.keep(at, data);
    }

    fn arrival(&mut self, now: i64, length: usize, reordered: bool, draw: u64) -> i64 {
        let faults = self.faults;
        if faults.rate > 0 {
            let takes = (length as u64 * 1_000_000).div_ceil(faults.rate);
            self.free_at = self.free_at.max(now) + takes as i64;
        } else {
            self.free_at = now;
        }
        let jitter = if faults.jitter > 0 { draw % (2 * faults.jitter + 1) } else { 0 };
        let late = (faults.delay + jitter).saturating_sub(faults.jitter) as i64;
        let at = self.free_at + late;
        if reordered {
            self.tally.reordered += 1;
            return at.max(self.last) + REORDERED_BY.max(faults.jitter as i64);
        }
        self.last = self.last.max(at);
        self.last
    }

    fn keep(&mut self, at: i64, data: Vec<u8>) {
        self.pushed += 1;
        self.waiting.insert((at, self.pushed), data);
    }

    pub fn pop(&mut self, now: i64) -> Option<Vec<u8>> {
        let entry = self.waiting.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        Some(entry.remove())
    }

    pub fn next(&self) -> Option<i64> {
        self.waiting.first_key_value().map(|(key, _)| key.0)
    }
}

fn flip(data: &mut [u8], draw: u64) -> bool {
    let Some(header) = packet::parse(data) else { return false };
    let bits = (header.end - header.body) * 8;
    if bits == 0 {
        return false;
    }
    let bit = (draw % bits as u64) as usize;
    data[header.body + bit / 8] ^= 1 << (bit % 8);
    true
}

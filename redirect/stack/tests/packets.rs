//! Parsers and builders of packets, on good bytes and on any.

use std::net::IpAddr;

use netcapture_stack::link::{Faults, Link};
use netcapture_stack::packet::{self, Key, UDP, Unreachable};
use netcapture_stack::reassembly::Reassembly;
use netcapture_stack::record::{Record, SIZE, faults};
use netcapture_stack::stack::{Options, Stack};

fn key(v6: bool) -> Key {
    let address = |last: u8| -> IpAddr {
        if v6 {
            [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last].into()
        } else {
            [10, 0, 0, last].into()
        }
    };
    Key {
        protocol: UDP,
        source: address(1),
        source_port: 1000,
        target: address(2),
        target_port: 53,
    }
}

/// A generator that is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn a_datagram_is_read_as_it_was_made() {
    for v6 in [false, true] {
        for length in [0, 1, 1400, 65_000] {
            let payload = Random(length as u64).bytes(length);
            let made = packet::datagram(&key(v6), &payload).unwrap();
            let header = packet::parse(&made).unwrap();
            assert_eq!(header.key, key(v6));
            assert_eq!(made[header.body + 8..header.end], payload);
            assert!(packet::is_intact(&made));
        }
        assert!(packet::datagram(&key(v6), &vec![0; 65_536]).is_none());
    }
}

#[test]
fn fragments_in_any_order_become_the_packet() {
    let payload = Random(3).bytes(20_000);
    let whole = packet::datagram(&key(true), &payload).unwrap();
    let mut pieces = packet::fragments_v6(&whole, 1500);
    let mut random = Random(9);
    for at in (1..pieces.len()).rev() {
        pieces.swap(at, random.next() as usize % (at + 1));
    }
    pieces.push(pieces[0].clone());
    let mut reassembly = Reassembly::default();
    let found: Vec<_> = pieces
        .iter()
        .filter_map(|piece| reassembly.take(0, piece, &packet::parse(piece).unwrap()))
        .collect();
    assert_eq!(found, [whole]);
}

#[test]
fn a_fragment_within_a_fragment_is_dropped() {
    let mut nested = packet::fragments_v6(&packet::datagram(&key(true), &[0; 100]).unwrap(), 1500);
    let inner = nested.pop().unwrap();
    let outer = packet::fragments_v6(&inner, 1500).pop().unwrap();
    let take = |data: &[u8]| Reassembly::default().take(0, data, &packet::parse(data).unwrap());
    assert!(take(&inner).is_some());
    assert!(take(&outer).is_none());
}

#[test]
fn segments_are_intact_and_hold_the_payload() {
    for v6 in [false, true] {
        let payload = Random(4).bytes(10_000);
        let whole = packet::datagram(&key(v6), &payload).unwrap();
        let pieces = packet::segments(&whole, 999);
        assert_eq!(pieces.len(), 11);
        assert!(pieces.iter().all(|piece| packet::is_intact(piece)));
        let body = if v6 { 48 } else { 28 };
        let found: Vec<u8> = pieces.iter().flat_map(|piece| piece[body..].to_vec()).collect();
        assert_eq!(found, payload);
    }
}

#[test]
fn an_error_quotes_what_it_is_about() {
    for v6 in [false, true] {
        let about = packet::datagram(&key(v6), b"").unwrap();
        let made = packet::unreachable(&about, Unreachable::Port).unwrap();
        let header = packet::parse(&made).unwrap();
        assert_eq!((header.key.source, header.key.target), (key(v6).target, key(v6).source));
        assert_eq!(made[header.body + 8..], about);
        assert_eq!(made[header.body..header.body + 2], if v6 { [1, 4] } else { [3, 3] });
    }
}

#[test]
fn a_corrupted_packet_is_noticed() {
    let mut link = Link::new(Faults { corrupt: 1_000_000, ..Faults::default() });
    for length in 1..200 {
        link.push(0, packet::datagram(&key(length % 2 == 0), &vec![7; length]).unwrap());
        assert!(!packet::is_intact(&link.pop(0).unwrap()));
    }
}

#[test]
fn nothing_panics_whatever_arrives() {
    let options = Options { mtu: 1500, offload: false, buffer: 4096, seed: 1 };
    let mut stack = Stack::new(options);
    let mut reassembly = Reassembly::default();
    let mut random = Random(5);
    let good: Vec<Vec<u8>> = [false, true]
        .iter()
        .flat_map(|v6| {
            let made = packet::datagram(&key(*v6), &[1; 50]).unwrap();
            let error = packet::unreachable(&made, Unreachable::Host).unwrap();
            [made, error]
        })
        .collect();
    for round in 0..200_000 {
        let mut data = if round % 2 == 0 {
            let length = random.next() as usize % 120;
            random.bytes(length)
        } else {
            let mut data = good[round / 2 % good.len()].clone();
            for _ in 0..random.next() % 6 {
                let at = random.next() as usize % data.len();
                data[at] = random.next() as u8;
            }
            data
        };
        if round % 3 == 0 && data.len() > 9 {
            let at = if data[0] >> 4 == 6 { 6 } else { 9 };
            data[at] = [6, 17, 1, 58, 44][random.next() as usize % 5];
        }
        if let Some(header) = packet::parse(&data) {
            reassembly.take(round as i64, &data, &header);
            packet::unreachable(&data, Unreachable::Host);
            packet::segments(&data, random.next() as usize % 40);
            packet::is_intact(&data);
            packet::complete(&mut data);
        }
        stack.ingress(round as i64, &data, round % 7);
        for at in stack.take_touched(round as i64) {
            stack.egress(round as i64, at);
        }
        stack.events.clear();
        while stack.out.pop().is_some() {}
    }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    for v6 in [false, true] {
        let record = Record { kind: 4, flow: u64::MAX - 3, number: -5, key: key(v6) };
        let mut data = record.encode().to_vec();
        data.extend_from_slice(b"payload");
        assert_eq!(Record::decode(&data), Some((record, &b"payload"[..])));
    }
    assert_eq!(Record::decode(&[0; SIZE - 1]), None);
    assert_eq!(faults(&[0; 55]), None);
}

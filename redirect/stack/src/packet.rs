//! IP packets: reading headers, building the few that smoltcp does not.
//!
//! Parsers take any bytes and never panic. RFC 791, 8200, 792, 4443, 768, 1071.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
pub const FRAGMENT_V6: u8 = 44;
const HOP_LIMIT: u8 = 64;

/// Who talks to whom; for a captured packet `source` is the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub protocol: u8,
    pub source: IpAddr,
    pub source_port: u16,
    pub target: IpAddr,
    pub target_port: u16,
}

/// What is read of a packet. `body` is where the transport's header begins, `end` where the packet does.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub key: Key,
    pub body: usize,
    pub end: usize,
    pub fragment: bool,
    /// A SYN that opens a connection, and its sequence number.
    pub syn: Option<u32>,
}

/// Whether a packet to `target` is for members or neighbours of `own`, a /24: nobody beyond gets it.
pub fn is_shared(target: IpAddr, own: &[IpAddr]) -> bool {
    let broadcast = |address: Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        let near = |one: &IpAddr| matches!(one, IpAddr::V4(one) if one.octets()[..3] == [a, b, c]);
        d == 255 && own.iter().any(near)
    };
    match target {
        IpAddr::V4(address) => address.octets()[0] >= 224 || broadcast(address),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

fn be16(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

/// Reads a packet's headers; `None` for what is no IP packet or is torn.
pub fn parse(data: &[u8]) -> Option<Header> {
    let (protocol, source, target, body, end, fragment) = match data.first()? >> 4 {
        4 if data.len() >= 20 => {
            let body = usize::from(data[0] & 15) * 4;
            let end = usize::from(be16(data, 2)).min(data.len());
            let source: [u8; 4] = data[12..16].try_into().ok()?;
            let target: [u8; 4] = data[16..20].try_into().ok()?;
            let fragment = be16(data, 6) & 0x3fff != 0;
            let (source, target) = (Ipv4Addr::from(source).into(), Ipv4Addr::from(target).into());
            (data[9], source, target, body, end, fragment)
        }
        6 if data.len() >= 40 => {
            let end = (40 + usize::from(be16(data, 4))).min(data.len());
            let source: [u8; 16] = data[8..24].try_into().ok()?;
            let target: [u8; 16] = data[24..40].try_into().ok()?;
            let (source, target) = (Ipv6Addr::from(source).into(), Ipv6Addr::from(target).into());
            (data[6], source, target, 40, end, data[6] == FRAGMENT_V6)
        }
        _ => return None,
    };
    if body < 20 || body > end {
        return None;
    }
    let key = Key { protocol, source, source_port: 0, target, target_port: 0 };
    let mut header = Header { key, body, end, fragment, syn: None };
    let length = end - body;
    if !fragment && (protocol == TCP && length >= 20 || protocol == UDP && length >= 8) {
        header.key.source_port = be16(data, body);
        header.key.target_port = be16(data, body + 2);
        if protocol == TCP && data[body + 13] & 0x17 == 0x02 {
            let number: [u8; 4] = data[body + 4..body + 8].try_into().ok()?;
            header.syn = Some(u32::from_be_bytes(number));
        }
    }
    Some(header)
}

/// Adds to an Internet checksum (RFC 1071).
pub fn sum(mut total: u64, data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut rest = [0u8; 4];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    total + u64::from(u32::from_be_bytes(rest))
}

pub fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum of the pseudo header of a packet whose transport is `length` bytes long.
pub fn pseudo(packet: &[u8], protocol: u8, length: usize) -> u64 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    sum(u64::from(protocol) + length as u64, addresses)
}

/// Where the checksum of a transport's header is.
pub fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP_V4 | ICMP_V6 => Some(2),
        _ => None,
    }
}

/// Fills the checksum of TCP or UDP in, which an offloading sender leaves to the device.
pub fn complete(packet: &mut [u8]) {
    let Some(header) = parse(packet) else { return };
    if header.fragment || !matches!(header.key.protocol, TCP | UDP) {
        return;
    }
    let length = header.end - header.body;
    let Some(at) = checksum_at(header.key.protocol).map(|at| header.body + at) else { return };
    if at + 2 > header.end {
        return;
    }
    packet[at..at + 2].fill(0);
    let total = pseudo(packet, header.key.protocol, length);
    let value = match !fold(sum(total, &packet[header.body..header.end])) {
        0 => 0xffff,
        value => value,
    };
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Recomputes the checksum of an IPv4 header.
pub fn complete_v4(packet: &mut [u8]) {
    let length = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let value = !fold(sum(0, &packet[..length]));
    packet[10..12].copy_from_slice(&value.to_be_bytes());
}

/// An IP header from `source` to `target` with room for `length` bytes behind it.
fn packet(source: IpAddr, target: IpAddr, protocol: u8, length: usize) -> Option<(Vec<u8>, usize)> {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let mut made = vec![0u8; 20 + length];
            made[0] = 0x45;
            made[2..4].copy_from_slice(&u16::try_from(20 + length).ok()?.to_be_bytes());
            made[8] = HOP_LIMIT;
            made[9] = protocol;
            made[12..16].copy_from_slice(&source.octets());
            made[16..20].copy_from_slice(&target.octets());
            complete_v4(&mut made);
            Some((made, 20))
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let mut made = vec![0u8; 40 + length];
            made[0] = 0x60;
            made[4..6].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
            made[6] = protocol;
            made[7] = HOP_LIMIT;
            made[8..24].copy_from_slice(&source.octets());
            made[24..40].copy_from_slice(&target.octets());
            Some((made, 40))
        }
        _ => None,
    }
}

/// A datagram along `key`; `None` when it is too long, or the families differ.
pub fn datagram(key: &Key, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(8 + payload.len()).ok()?;
    let (mut made, body) = packet(key.source, key.target, UDP, usize::from(length))?;
    made[body..body + 2].copy_from_slice(&key.source_port.to_be_bytes());
    made[body + 2..body + 4].copy_from_slice(&key.target_port.to_be_bytes());
    made[body + 4..body + 6].copy_from_slice(&length.to_be_bytes());
    made[body + 8..].copy_from_slice(payload);
    complete(&mut made);
    Some(made)
}

/// Why a packet did not arrive (RFC 792, RFC 4443 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    Host,
    Port,
}

/// An ICMP error about `about`, as from the address that it went to.
pub fn unreachable(about: &[u8], why: Unreachable) -> Option<Vec<u8>> {
    let header = parse(about)?;
    let v4 = header.key.source.is_ipv4();
    let quoted = &about[..header.end.min(if v4 { header.body + 28 } else { 1232 - 48 })];
    let protocol = if v4 { ICMP_V4 } else { ICMP_V6 };
    let (mut made, body) =
        packet(header.key.target, header.key.source, protocol, 8 + quoted.len())?;
    (made[body], made[body + 1]) = match (v4, why) {
        (true, Unreachable::Host) => (3, 1),
        (true, Unreachable::Port) => (3, 3),
        (false, Unreachable::Host) => (1, 3),
        (false, Unreachable::Port) => (1, 4),
    };
    made[body + 8..].copy_from_slice(quoted);
    let start = if v4 { 0 } else { pseudo(&made, ICMP_V6, 8 + quoted.len()) };
    let value = !fold(sum(start, &made[body..]));
    made[body + 2..body + 4].copy_from_slice(&value.to_be_bytes());
    Some(made)
}

/// Cuts a segment that is larger than the path takes, as a device with segmentation offload would.
///
/// `size` is the payload of each piece. Checksums of the pieces are complete. What is not TCP or UDP is
/// returned whole.
pub fn segments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let Some(header) = parse(packet) else { return vec![packet.to_vec()] };
    let transport = match header.key.protocol {
        TCP if header.end >= header.body + 20 => usize::from(packet[header.body + 12] >> 4) * 4,
        UDP if header.end >= header.body + 8 => 8,
        _ => return vec![packet[..header.end].to_vec()],
    };
    let payload = header.body + transport;
    let torn = header.key.protocol == TCP && transport < 20;
    if torn || header.fragment || size == 0 || payload >= header.end || header.end - payload <= size
    {
        let mut whole = packet[..header.end].to_vec();
        complete(&mut whole);
        return vec![whole];
    }
    let last = (header.end - payload - 1) / size;
    packet[payload..header.end]
        .chunks(size)
        .enumerate()
        .map(|(number, chunk)| piece(packet, &header, payload, (number, last, size), chunk))
        .collect()
}

fn piece(
    packet: &[u8],
    header: &Header,
    payload: usize,
    (number, last, size): (usize, usize, usize),
    chunk: &[u8],
) -> Vec<u8> {
    let mut made = packet[..payload].to_vec();
    made.extend_from_slice(chunk);
    let body = header.body;
    if header.key.source.is_ipv4() {
        let length = made.len() as u16;
        made[2..4].copy_from_slice(&length.to_be_bytes());
        let identity = be16(packet, 4).wrapping_add(number as u16);
        made[4..6].copy_from_slice(&identity.to_be_bytes());
        complete_v4(&mut made);
    } else {
        let length = (made.len() - 40) as u16;
        made[4..6].copy_from_slice(&length.to_be_bytes());
    }
    if header.key.protocol == TCP {
        let first = u32::from_be_bytes([
            packet[body + 4],
            packet[body + 5],
            packet[body + 6],
            packet[body + 7],
        ]);
        let at = first.wrapping_add((number * size) as u32);
        made[body + 4..body + 8].copy_from_slice(&at.to_be_bytes());
        if number != last {
            made[body + 13] &= !0x09; // FIN and PSH belong to the last one
        }
    } else {
        let length = (made.len() - body) as u16;
        made[body + 4..body + 6].copy_from_slice(&length.to_be_bytes());
    }
    complete(&mut made);
    made
}

/// Cuts an IPv6 packet into two or more that are no longer than `mtu` (RFC 8200 §4.5).
pub fn fragments_v6(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (head, body) = packet.split_at(40);
    let size = (mtu - 48) & !7;
    let count = body.len().div_ceil(size);
    let cut = |(number, chunk): (usize, &[u8])| {
        let more = u16::from(number + 1 < count);
        let at = (number * size) as u16 | more;
        let mut made = head.to_vec();
        made[4..6].copy_from_slice(&((8 + chunk.len()) as u16).to_be_bytes());
        made[6] = FRAGMENT_V6;
        made.extend([head[6], 0]);
        made.extend(at.to_be_bytes());
        made.extend(sum(0, &head[8..40]).to_be_bytes()[4..].iter()); // any number will do
        made.extend(chunk);
        made
    };
    body.chunks(size).enumerate().map(cut).collect()
}

/// Whether the transport's checksum is right, or absent (UDP over IPv4).
pub fn is_intact(packet: &[u8]) -> bool {
    let Some(header) = parse(packet) else { return false };
    if header.fragment || !matches!(header.key.protocol, TCP | UDP) {
        return true;
    }
    let Some(at) = checksum_at(header.key.protocol).map(|at| header.body + at) else { return true };
    if header.key.protocol == UDP && packet.get(at..at + 2) == Some(&[0, 0]) {
        return header.key.source.is_ipv4();
    }
    let total = pseudo(packet, header.key.protocol, header.end - header.body);
    fold(sum(total, &packet[header.body..header.end])) == 0xffff
}

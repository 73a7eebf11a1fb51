//! The driver, with sockets for its device and a clock of its own: what is hard to time on a real one.
#![allow(unsafe_code)] // descriptors arrive as numbers

mod wire;

use std::os::fd::{FromRawFd, OwnedFd};

use netcapture_stack::driver::{Device, Driver};
use netcapture_stack::ends::pair;
use netcapture_stack::link::Faults;
use netcapture_stack::record::{Record, SIZE, command, event};
use netcapture_stack::stack::Options;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, recv, send};
use rustix::time::Timespec;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::IpAddress;
use wire::{MTU, Wire};

const SECOND: i64 = 1_000_000;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The engine's side of a connection.
struct Server {
    flow: u64,
    socket: OwnedFd,
}

struct Lab {
    now: i64,
    driver: Driver,
    channel: OwnedFd,
    cable: OwnedFd,
    wire: Wire,
    client: Interface,
    sockets: SocketSet<'static>,
}

fn read(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1 << 17];
    let (length, _) = recv(fd, &mut buffer[..], RecvFlags::DONTWAIT)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Writes until the other end takes no more; returns how much.
fn fill(fd: &OwnedFd) -> usize {
    let mut written = 0;
    while let Ok(length) = send(fd, &[7; 4096], SendFlags::DONTWAIT) {
        written += length;
    }
    written
}

impl Lab {
    fn new() -> Lab {
        let (tun, cable) = pair(SocketType::SEQPACKET).unwrap();
        let (loopback, diag) = pair(SocketType::DGRAM).unwrap();
        let device = Device { tun, loopback, diag, own: Vec::new(), locals: Default::default() };
        let options = Options { mtu: MTU, offload: false, buffer: 65_536, seed: 1 };
        let (driver, channel) = Driver::new(device, options).unwrap();
        let mut wire = Wire::default();
        let client = wire::client(&mut wire);
        let sockets = SocketSet::new(Vec::new());
        Lab { now: 0, driver, channel, cable, wire, client, sockets }
    }

    /// Lets all happen that happens now.
    fn settle(&mut self) {
        loop {
            self.client.poll(Instant::from_micros(self.now), &mut self.wire, &mut self.sockets);
            let mut moved = !self.wire.output.is_empty();
            for data in self.wire.output.drain(..) {
                send(&self.cable, &data, SendFlags::DONTWAIT).unwrap();
                self.driver.turn(&NOW, || self.now);
            }
            self.driver.turn(&NOW, || self.now);
            while let Ok(data) = read(&self.cable) {
                self.wire.input.push_back(data);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn event(&self) -> Option<Record> {
        let data = read(&self.channel).ok()?;
        Record::decode(&data).map(|(record, _)| record)
    }

    fn tell(&self, kind: u8, flow: u64) {
        send(&self.channel, &Record::new(kind, flow, 0).encode(), SendFlags::DONTWAIT).unwrap();
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn connect(&mut self, port: u16) -> (SocketHandle, Server) {
        let handle = self.sockets.add(wire::socket());
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.client.context(), (IpAddress::v4(198, 51, 100, 7), 443), port).unwrap();
        self.settle();
        let asked = self.event().unwrap();
        assert_eq!(asked.kind, event::CONNECTING);
        self.tell(command::ACCEPT, asked.flow);
        self.settle();
        let opened = self.event().unwrap();
        assert_eq!((opened.kind, opened.flow), (event::OPENED, asked.flow));
        // SAFETY: the event gives it away.
        let socket = unsafe { OwnedFd::from_raw_fd(opened.number) };
        (handle, Server { flow: asked.flow, socket })
    }

    /// Takes up to `most` bytes out of the client's buffer.
    fn take(&mut self, handle: SocketHandle, most: usize) -> Vec<u8> {
        let mut buffer = vec![0; most];
        let length = self.tcp(handle).recv_slice(&mut buffer).unwrap_or(0);
        buffer.truncate(length);
        buffer
    }
}

#[test]
fn an_engine_that_closes_with_data_unread_is_heard_first() {
    let mut lab = Lab::new();
    let (handle, server) = lab.connect(40_000);
    loop {
        let sent = lab.tcp(handle).send_slice(&[1; 4096]).unwrap();
        lab.settle();
        if sent == 0 {
            break;
        }
    }
    send(&server.socket, b"too much", SendFlags::DONTWAIT).unwrap();
    drop(server);
    lab.settle();
    assert_eq!(lab.take(handle, 100), b"too much");
    assert_eq!(lab.tcp(handle).state(), tcp::State::Closed);
    assert_eq!(lab.tcp(handle).recv_slice(&mut [0]), Err(tcp::RecvError::InvalidState));
    assert_eq!(lab.event().unwrap().kind, event::CLOSED); // at once, not when somebody looks for orphans
}

#[test]
fn a_slow_client_has_all_the_time_that_it_takes() {
    let mut lab = Lab::new();
    let (handle, server) = lab.connect(40_000);
    let mut written = 0;
    loop {
        let more = fill(&server.socket);
        lab.settle();
        if more == 0 {
            break;
        }
        written += more;
    }
    drop(server);
    let mut taken = 0;
    for _ in 0..200 {
        lab.now += SECOND;
        lab.settle();
        taken += lab.take(handle, 2048).len();
    }
    assert!(taken < written);
    loop {
        lab.now += SECOND;
        lab.settle();
        match lab.take(handle, 1 << 16).len() {
            0 => break,
            length => taken += length,
        }
    }
    assert_eq!(taken, written);
    assert_eq!(lab.tcp(handle).state(), tcp::State::CloseWait);
}

#[test]
fn a_client_that_never_ends_its_side_is_not_kept_for_ever() {
    let mut lab = Lab::new();
    let (handle, server) = lab.connect(40_000);
    drop(server);
    for _ in 0..59 {
        lab.now += SECOND;
        lab.settle();
    }
    assert_eq!(lab.tcp(handle).state(), tcp::State::CloseWait);
    for _ in 0..5 {
        lab.now += SECOND;
        lab.settle();
    }
    assert_eq!(lab.tcp(handle).state(), tcp::State::Closed);
}

#[test]
fn a_reset_is_told_before_the_socket_ends_however_full_the_channel() {
    let mut lab = Lab::new();
    let made: Vec<_> = (0..5).map(|number| lab.connect(30_000 + number)).collect();
    let (handles, servers): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    for _ in 0..1000 {
        lab.tell(command::SYNC, 0); // each is answered, and nobody reads
        lab.settle();
    }
    for handle in handles {
        lab.tcp(handle).abort();
        lab.settle();
    }
    let told = |lab: &Lab, found: &mut Vec<u64>| {
        while let Some(record) = lab.event() {
            if record.kind != event::SYNCED {
                assert_eq!((record.kind, record.number), (event::CLOSED, 1));
                found.push(record.flow);
            }
        }
    };
    let mut found = Vec::new();
    let ended = |server: &Server| read(&server.socket).is_ok_and(|data| data.is_empty());
    assert!(!servers.iter().any(ended), "the channel has room for all: ask more often");
    while !servers.iter().all(ended) {
        let over: Vec<u64> = servers.iter().filter(|one| ended(one)).map(|one| one.flow).collect();
        told(&lab, &mut found);
        assert!(over.iter().all(|flow| found.contains(flow)));
        lab.settle();
    }
}

#[test]
fn who_is_stopped_resets_its_clients_at_once_however_slow_the_network() {
    let mut lab = Lab::new();
    let (handle, _server) = lab.connect(40_000);
    let slow = Faults { delay: 10_000_000, ..Faults::default() };
    let mut payload = [0u8; 56];
    payload[8..16].copy_from_slice(&slow.delay.to_ne_bytes());
    let mut message = Record::new(command::FAULTS_DOWN, 0, 0).encode().to_vec();
    assert_eq!(message.len(), SIZE);
    message.extend(payload);
    send(&lab.channel, &message, SendFlags::DONTWAIT).unwrap();
    lab.tcp(handle).send_slice(b"x").unwrap();
    lab.settle(); // its acknowledgement is under way
    lab.tell(command::STOP, 0);
    lab.settle();
    assert_eq!(lab.tcp(handle).state(), tcp::State::Closed);
}

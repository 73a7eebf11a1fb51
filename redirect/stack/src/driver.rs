//! The edge: a thread that has the device, the connections' sockets and the channel.
//!
//! 1. A captured connection is a socket pair (`ends`), made when the client's handshake is done. A reset by the
//!    client is an event, and the engine's socket closes when that is in the channel, not before.
//! 2. What the engine has written before it closes or resets a connection goes out before the reset.
//! 3. What is for somebody in the namespace goes to `lo` by a packet socket, as it came; so do answers from
//!    addresses of this machine, which the kernel takes from no other device.
//! 4. `SYNC` is answered when all that was sent before has been read from the device.
//! 5. The thread ends with the channel, and with it the device and all sockets.
//! 6. Time is an argument of `turn`. tests/driver.rs has a client, and a clock of its own.

use std::collections::{HashSet, VecDeque};
use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, read, writev};
use rustix::net::{RecvFlags, SendFlags, SocketType, recv, send};
use rustix::time::Timespec;
use smoltcp::socket::tcp::State;

use crate::diag::Diag;
use crate::ends::{End, Moved, pair};
use crate::link::{Faults, Link};
use crate::packet::{self, Key, parse};
use crate::reassembly::Reassembly;
use crate::record::{Record, SIZE, command, event, faults};
use crate::stack::{Event, Frame, Options, Refusal, Stack};

const TUN: u64 = u64::MAX;
const CHANNEL: u64 = u64::MAX - 1;
const VIRTIO: usize = 10;
const ETHERNET: usize = 14;
const ROUNDS: usize = 64;
/// More packets than the device's ring and queue hold (`_QUEUE_LENGTH` in redirect/tun_plumbing.py, each).
const QUEUED: usize = 20_001;
/// The MTU of `lo`, which only the longest datagrams over IPv6 exceed.
const LOOPBACK_MTU: usize = 65_536;
const WAITING: usize = 4096;
const ORPHAN: i64 = 60_000_000;
const SECOND: i64 = 1_000_000;

pub struct Device {
    pub tun: OwnedFd,
    /// A packet socket bound to `lo`, with ENGINE_MARK.
    pub loopback: OwnedFd,
    /// A NETLINK_SOCK_DIAG socket of the namespace.
    pub diag: OwnedFd,
    /// The sandbox's own addresses.
    pub own: Vec<IpAddr>,
    /// Those and the machine's, which are there as well.
    pub locals: HashSet<IpAddr>,
}

/// A message for the channel, and the end that is closed when it is there.
struct Told(Vec<u8>, #[expect(dead_code, reason = "it is dropped")] Option<End>);

pub struct Driver {
    stack: Stack,
    options: Options,
    device: Device,
    diag: Diag,
    epoll: OwnedFd,
    channel: OwnedFd,
    ends: Vec<Option<End>>,
    unopened: Vec<u64>,
    news: VecDeque<(Record, Vec<u8>)>,
    outgoing: VecDeque<Told>,
    up: Link,
    down: Link,
    reassembly: Reassembly,
    buffer: Vec<u8>,
    now: i64,
    reaped: i64,
    stopping: bool,
}

/// Starts the thread; returns it and the channel's other end.
pub fn start(device: Device, options: Options) -> Result<(JoinHandle<()>, OwnedFd), Errno> {
    let (driver, channel) = Driver::new(device, options)?;
    let thread = std::thread::Builder::new().name("netcapture-tun".into());
    let thread = thread.spawn(move || body(driver)).map_err(|_| Errno::AGAIN)?;
    Ok((thread, channel))
}

fn body(mut driver: Driver) {
    if catch_unwind(AssertUnwindSafe(|| driver.run())).is_err() {
        driver.tell(Record::new(event::FATAL, 0, 0), &[]);
    }
}

impl Driver {
    /// Returns it and the channel's other end.
    pub fn new(device: Device, options: Options) -> Result<(Driver, OwnedFd), Errno> {
        let (channel, theirs) = pair(SocketType::SEQPACKET)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &device.tun, EventData::new_u64(TUN), EventFlags::IN)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&epoll, &channel, EventData::new_u64(CHANNEL), flags)?;
        let socket = device.diag.try_clone().map_err(|_| Errno::MFILE)?;
        let diag = Diag { socket, own: device.own.clone() };
        let driver = Driver {
            stack: Stack::new(options),
            options,
            device,
            diag,
            epoll,
            channel,
            ends: Vec::new(),
            unopened: Vec::new(),
            news: VecDeque::new(),
            outgoing: VecDeque::new(),
            up: Link::new(Faults::default()),
            down: Link::new(Faults::default()),
            reassembly: Reassembly::default(),
            buffer: vec![0; VIRTIO + (1 << 16)],
            now: 0,
            reaped: 0,
            stopping: false,
        };
        Ok((driver, theirs))
    }

    fn run(&mut self) {
        let began = Instant::now();
        while !self.stopping {
            let timeout = self.timeout();
            self.turn(&timeout, || began.elapsed().as_micros() as i64);
        }
    }

    /// Waits for something to happen, and does all that follows; `clock` tells the time then, in microseconds.
    pub fn turn(&mut self, timeout: &Timespec, clock: impl FnOnce() -> i64) {
        let mut events = Vec::with_capacity(128);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => self.stopping = true,
        }
        self.now = clock();
        for happened in &events {
            match happened.data.u64() {
                TUN => self.read_device(ROUNDS),
                CHANNEL => self.read_channel(),
                id => self.ready(id, happened.flags),
            }
        }
        self.settle();
        if self.stopping {
            self.end_all();
        }
    }

    /// Resets what is open: the clients would hear nothing of it without the device.
    fn end_all(&mut self) {
        let open: Vec<u64> = self.ends.iter().flatten().map(|end| end.id).collect();
        self.down = Link::new(Faults::default()); // whatever is under way would come too late
        for id in open {
            self.stack.find(id).into_iter().for_each(|at| self.abort(at));
        }
        self.flush();
    }

    fn timeout(&self) -> Timespec {
        let timers = [self.stack.next_timer(), self.up.next(), self.down.next()];
        let due = timers.into_iter().flatten().min().map_or(SECOND, |due| due - self.now);
        let due = if self.stack.has_touched() { 0 } else { due.clamp(0, SECOND) };
        Timespec { tv_sec: due / SECOND, tv_nsec: due % SECOND * 1000 }
    }

    /// Does all that follows from what has been read.
    fn settle(&mut self) {
        while let Some(data) = self.up.pop(self.now) {
            if packet::is_intact(&data) {
                self.ingress(&data, 0);
            }
        }
        if self.now - self.reaped > SECOND {
            self.reaped = self.now;
            self.reap();
        }
        self.hand_on();
        self.send_waiting();
    }

    /// Hands on what has been read: bytes first, then news, so that what a client said on one connection is
    /// there before its next one is.
    fn hand_on(&mut self) {
        for at in self.stack.take_touched(self.now) {
            self.serve(at);
        }
        while let Some((record, payload)) = self.news.pop_front() {
            self.tell(record, &payload);
        }
        self.flush();
    }

    // ── the device ───────────────────────────────────────────────────────────────────────────────────

    fn read_device(&mut self, rounds: usize) {
        let start = if self.options.offload { VIRTIO } else { 0 };
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..rounds {
            match read(&self.device.tun, &mut buffer[..]) {
                Ok(length) if length > start => {
                    let (virtio, data) = buffer[..length].split_at(start);
                    let mut head = [0; VIRTIO];
                    head[..start].copy_from_slice(virtio);
                    self.arrive(head, data);
                }
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => {
                    self.stopping = true; // somebody has removed the device
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// A packet from the namespace: somebody's in it, or captured.
    fn arrive(&mut self, head: [u8; VIRTIO], data: &[u8]) {
        let Some(header) = parse(data) else { return };
        if packet::is_shared(header.key.target, &self.diag.own) {
            return;
        }
        if header.fragment {
            if let Some(whole) = self.reassembly.take(self.now, data, &header) {
                self.arrive([0; VIRTIO], &whole);
            }
            return;
        }
        let key = &header.key;
        if self.is_local(key.target) && self.is_theirs(key, header.syn) {
            self.pass_back(head, data);
            return;
        }
        let size = match head[1] & 0x7f {
            0 => 0,
            _ => usize::from(u16::from_ne_bytes([head[4], head[5]])),
        };
        if self.up.is_idle() {
            self.ingress(data, if key.protocol == packet::UDP { size } else { 0 });
        } else {
            let size = if size == 0 { usize::MAX } else { size };
            for piece in packet::segments(data, size) {
                self.up.push(self.now, piece);
            }
        }
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.device.locals.contains(&address)
    }

    /// Whether a packet to a local address is for a socket of the namespace.
    fn is_theirs(&self, key: &Key, syn: Option<u32>) -> bool {
        match key.protocol {
            packet::TCP if self.stack.has(key, syn) => false,
            packet::TCP if syn.is_none() => true,
            packet::TCP | packet::UDP => self.diag.listens(key),
            _ => true,
        }
    }

    fn pass_back(&mut self, mut head: [u8; VIRTIO], data: &[u8]) {
        if head[0] & 1 != 0 {
            shift(&mut head, 6, ETHERNET);
        }
        if head[1] != 0 {
            shift(&mut head, 2, ETHERNET);
        }
        self.write_loopback(&head, data);
    }

    fn write_loopback(&self, head: &[u8; VIRTIO], data: &[u8]) {
        if data.len() > LOOPBACK_MTU {
            for piece in packet::fragments_v6(data, LOOPBACK_MTU) {
                self.write_loopback(&[0; VIRTIO], &piece);
            }
            return;
        }
        let mut ethernet = [0u8; ETHERNET];
        let kind: u16 = if data[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        ethernet[12..].copy_from_slice(&kind.to_be_bytes());
        let head = if self.options.offload { &head[..] } else { &[] };
        let parts = [IoSlice::new(head), IoSlice::new(&ethernet), IoSlice::new(data)];
        let _ = writev(&self.device.loopback, &parts); // lost, as on any network
    }

    fn ingress(&mut self, data: &[u8], segment: usize) {
        self.stack.ingress(self.now, data, segment);
        while let Some(happened) = self.stack.events.pop_front() {
            match happened {
                Event::Connecting { flow, key } => {
                    let record = Record { kind: event::CONNECTING, flow, number: 0, key };
                    self.news.push_back((record, Vec::new()));
                }
                Event::Datagram { key, payload } => {
                    if self.outgoing.len() + self.news.len() < WAITING {
                        let record = Record { kind: event::DATAGRAM, flow: 0, number: 0, key };
                        self.news.push_back((record, payload));
                    }
                }
            }
        }
    }

    fn flush(&mut self) {
        while let Some(frame) = self.stack.out.pop() {
            if self.down.is_idle() {
                self.write(&frame);
            } else {
                let size = frame.segment.map_or(usize::MAX, usize::from);
                for piece in packet::segments(&frame.data, size) {
                    self.down.push(self.now, piece);
                }
            }
            self.stack.out.recycle(frame.data);
        }
        while let Some(data) = self.down.pop(self.now) {
            self.write(&Frame { data, segment: None, partial: false });
        }
    }

    fn write(&mut self, frame: &Frame) {
        let Some(header) = parse(&frame.data) else { return };
        let mut head = [0u8; VIRTIO];
        let mut partial = Vec::new();
        let mut data = &frame.data[..];
        if frame.partial {
            let at = header.body + 16;
            let length = header.end - header.body;
            let value = packet::fold(packet::pseudo(data, packet::TCP, length));
            let transport = usize::from(data[header.body + 12] >> 4) * 4;
            // Only the headers are copied: the checksum's field holds the pseudo header's sum.
            partial.extend_from_slice(&data[..header.body + transport]);
            partial[at..at + 2].copy_from_slice(&value.to_be_bytes());
            data = &data[header.body + transport..];
            head[0] = 1;
            head[6..8].copy_from_slice(&(header.body as u16).to_ne_bytes());
            head[8..10].copy_from_slice(&16u16.to_ne_bytes());
            if let Some(size) = frame.segment {
                head[1] = if header.key.source.is_ipv4() { 1 } else { 4 };
                head[2..4].copy_from_slice(&((header.body + transport) as u16).to_ne_bytes());
                head[4..6].copy_from_slice(&size.to_ne_bytes());
            }
        }
        if self.is_local(header.key.source) {
            let whole = [&partial[..], data].concat();
            self.pass_back(head, &whole);
            return;
        }
        let head = if self.options.offload { &head[..] } else { &[] };
        let parts = [IoSlice::new(head), IoSlice::new(&partial), IoSlice::new(data)];
        let _ = writev(&self.device.tun, &parts); // lost, as on any network
    }

    // ── the channel ──────────────────────────────────────────────────────────────────────────────────

    fn tell(&mut self, record: Record, payload: &[u8]) {
        let mut message = record.encode().to_vec();
        message.extend_from_slice(payload);
        self.outgoing.push_back(Told(message, None));
        self.send_waiting();
    }

    fn send_waiting(&mut self) {
        while let Some(Told(message, _)) = self.outgoing.front() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.channel, message, flags) {
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.stopping = true;
                    return;
                }
                _ => {
                    self.outgoing.pop_front();
                }
            }
        }
    }

    fn read_channel(&mut self) {
        let mut buffer = [0u8; SIZE + (1 << 16)];
        loop {
            match recv(&self.channel, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.stopping = true,
                Ok((length, _)) => {
                    if let Some((record, payload)) = Record::decode(&buffer[..length]) {
                        self.obey(record, payload);
                    }
                    if !self.stopping {
                        continue;
                    }
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => self.stopping = true,
            }
            return;
        }
    }

    fn obey(&mut self, record: Record, payload: &[u8]) {
        let now = self.now;
        let at = self.stack.find(record.flow);
        match (record.kind, at) {
            (command::STOP, _) => self.stopping = true,
            (command::SYNC, _) => {
                self.read_device(QUEUED); // all that there was; a flood has no end
                self.hand_on();
                self.tell(Record::new(event::SYNCED, 0, record.number), &[]);
            }
            (command::DATAGRAM, _) => {
                self.stack.send_datagram(&record.key, payload);
                self.flush();
            }
            (command::PORT_UNREACHABLE, _) => self.stack.port_unreachable(&record.key),
            (command::FAULTS_UP, _) => self.up.change(faults(payload).unwrap_or_default()),
            (command::FAULTS_DOWN, _) => self.down.change(faults(payload).unwrap_or_default()),
            (command::ACCEPT, Some(at)) => self.stack.accept(now, at),
            (command::REFUSE, Some(at)) => self.stack.refuse(now, at, Refusal::Reset),
            (command::DROP, Some(at)) => self.stack.refuse(now, at, Refusal::Silence),
            (command::UNREACHABLE, Some(at)) => self.stack.refuse(now, at, Refusal::Unreachable),
            (command::ABORT, Some(at)) => self.abort(at),
            _ => {}
        }
    }

    // ── connections ──────────────────────────────────────────────────────────────────────────────────

    fn ready(&mut self, id: u64, flags: EventFlags) {
        let Some(at) = self.stack.find(id) else { return };
        if let Some(end) = self.end(at) {
            end.note(flags);
        }
        self.stack.touch(at);
    }

    fn serve(&mut self, at: u32) {
        if self.stack.standing(at).established && self.end(at).is_none() && !self.open(at) {
            self.unopened.extend(self.stack.id(at)); // no descriptors: clients wait, as at a listener
        }
        let moved = match (self.ends.get_mut(at as usize), self.stack.socket(at)) {
            (Some(Some(end)), Some(socket)) => end.move_bytes(socket),
            _ => Moved::All,
        };
        match moved {
            Moved::All => {}
            Moved::Ended => self.end_output(at),
            // As a kernel's socket that is closed with data unread, or sent more after that.
            Moved::Broken => self.abort(at),
        }
        self.stack.egress(self.now, at);
        let standing = self.stack.standing(at);
        if standing.ended
            && let Some(end) = self.end(at)
        {
            end.tell_end();
        }
        if standing.over {
            self.forget(at, standing.reset);
        }
    }

    /// Ends the engine's side, unless the engine has asked for a reset before it closed its socket.
    fn end_output(&mut self, at: u32) {
        let id = self.stack.id(at);
        self.read_channel();
        if self.stack.id(at) == id
            && let Some(socket) = self.stack.socket(at)
        {
            socket.close();
        }
    }

    fn end(&mut self, at: u32) -> Option<&mut End> {
        self.ends.get_mut(at as usize)?.as_mut()
    }

    /// Makes the socket pair of a connection and hands one end over.
    fn open(&mut self, at: u32) -> bool {
        let (Some(id), Some(key)) = (self.stack.id(at), self.stack.key(at)) else { return false };
        let Ok((end, theirs)) = End::open(id, &self.epoll) else { return false };
        let length = self.ends.len().max(at as usize + 1);
        self.ends.resize_with(length, || None);
        self.ends[at as usize] = Some(end);
        let number = theirs.into_raw_fd();
        self.tell(Record { kind: event::OPENED, flow: id, number, key }, &[]);
        true
    }

    /// Resets a connection. What was written before goes out first, as far as the window lets it,
    /// as with a kernel's socket that is closed with SO_LINGER 0.
    fn abort(&mut self, at: u32) {
        if let Some(Some(end)) = self.ends.get_mut(at as usize)
            && let Some(socket) = self.stack.socket(at)
        {
            end.move_last(socket);
            self.stack.egress(self.now, at);
        }
        if let Some(socket) = self.stack.socket(at) {
            socket.abort();
        }
        self.stack.egress(self.now, at);
        self.forget(at, false);
    }

    fn forget(&mut self, at: u32, reset: bool) {
        self.stack.remove(at);
        if let Some(end) = self.ends.get_mut(at as usize).and_then(Option::take) {
            // Told first: whoever then reads the end of the socket can ask whether it was a reset.
            let record = Record::new(event::CLOSED, end.id, i32::from(reset));
            self.outgoing.push_back(Told(record.encode().to_vec(), Some(end)));
            self.send_waiting();
        }
    }

    /// Ends connections that the engine has closed and whose clients keep their side open (FIN_WAIT2). One that
    /// still has something to take may take its time.
    fn reap(&mut self) {
        let mut orphans = Vec::new();
        for (at, end) in self.ends.iter_mut().enumerate() {
            let Some(end) = end.as_mut().filter(|end| end.closed) else { continue };
            let state = self.stack.socket(at as u32).map(|socket| socket.state());
            let since = *end.orphan_since.get_or_insert(self.now);
            if state != Some(State::FinWait2) {
                end.orphan_since = None;
            } else if self.now - since > ORPHAN {
                orphans.push(at as u32);
            }
        }
        orphans.into_iter().for_each(|at| self.abort(at));
        for id in std::mem::take(&mut self.unopened) {
            self.stack.find(id).into_iter().for_each(|at| self.stack.touch(at));
        }
    }
}

/// Adds to a 16-bit field of a virtio_net_hdr: positions count from the Ethernet header there.
fn shift(head: &mut [u8; VIRTIO], at: usize, by: usize) {
    let value = u16::from_ne_bytes([head[at], head[at + 1]]) + by as u16;
    head[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}
